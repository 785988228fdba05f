"""Other tools' formats: which one a folder has, how to read it, and how to write each and run it there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fairseq.conversion import huggingface, onnx_model, portable_model, torchaudio_model
from fairseq.conversion.portable_model import PortableModel

ReadPickle = Callable[[str], dict[str, Any]]  # opens files of torch: the restricted reader of checkpoints


class Compared(NamedTuple):
    """What two forms of a model make of the same audio; see `portable_model.outputs`."""

    ours: list[Tensor]
    theirs: list[Tensor]


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of transformers, or of torchaudio's weights as `torchaudio_model` writes them."""
    return torchaudio_model.is_folder(path) or huggingface.is_folder(path)


def read(path: str | os.PathLike[str], read_pickle: ReadPickle) -> PortableModel:
    """The model in a folder.

    Raises:
        ValueError: it has no counterpart here, or its files are damaged or missing.
    """
    return (torchaudio_model if torchaudio_model.is_folder(path) else huggingface).read(path, read_pickle)


def run(path: str, model: PortableModel, waveform: Tensor, read_pickle: ReadPickle) -> list[Tensor]:
    """What the tool of a folder makes of audio B x S; `model` is what `read` returned."""
    if torchaudio_model.is_folder(path):
        return torchaudio_model.outputs(path, waveform, read_pickle)
    return huggingface.outputs(path, waveform, huggingface.head_of(model))


def write_huggingface(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    os.makedirs(path)
    huggingface.write(model, path)
    head = "ForCTC" if model.is_fine_tuned else "ForPreTraining"
    return Compared(_outputs(model, audio), huggingface.outputs(path, audio, head))


def write_torchaudio(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    os.makedirs(path)
    torchaudio_model.write(model, path)
    ours = _outputs(model, audio, encoder_only=True)
    return Compared(ours, torchaudio_model.outputs(path, audio, read_pickle))


def write_onnx(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    onnx_model.write(model, path)
    # another length and number than the graph was traced with
    several = [audio, audio[:, : audio.size(1) // 3].repeat(3, 1)]
    built = portable_model.build(model)
    ours = [portable_model.outputs(built, source)[0] for source in several]
    return Compared(ours, onnx_model.outputs(path, several))


def _outputs(model: PortableModel, audio: Tensor, encoder_only: bool = False) -> list[Tensor]:
    return portable_model.outputs(portable_model.build(model), audio, encoder_only)


# name -> writes a model to `path` and runs both forms on audio B x S
WRITERS: dict[str, Callable[[PortableModel, str, Tensor, ReadPickle], Compared]] = {
    "hf": write_huggingface,
    "torchaudio": write_torchaudio,
    "onnx": write_onnx,
}
