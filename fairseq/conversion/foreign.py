"""Formats of other tools: detect, read, write and run them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fairseq.conversion import huggingface, onnx_model, portable_model, torchaudio_model
from fairseq.conversion.portable_model import PortableModel

ReadPickle = Callable[[str], dict[str, Any]]  # the restricted reader of checkpoints


class Compared(NamedTuple):
    """Outputs of two forms of a model for the same audio; see `portable_model.outputs`."""

    ours: list[Tensor]
    theirs: list[Tensor]


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a folder written by transformers, or by `torchaudio_model`."""
    return torchaudio_model.is_folder(path) or huggingface.is_folder(path)


def read(path: str | os.PathLike[str], read_pickle: ReadPickle, language: str | None = None) -> PortableModel:
    """Read the model in a folder.

    Args:
        language: whose adapters and output layer to read, of a transformers folder that has several languages.
    Raises:
        ValueError: fairseq cannot represent the model, or its files are damaged or missing.
    """
    if not torchaudio_model.is_folder(path):
        return huggingface.read(path, read_pickle, language)
    if language is not None:
        raise ValueError(f"--language is {language}, but {path} has one model without adapters: leave it out")
    return torchaudio_model.read(path, read_pickle)


def run(path: str, model: PortableModel, waveform: Tensor, read_pickle: ReadPickle) -> list[Tensor]:
    """Run the model of a folder in its own tool on audio B x S; `model` is the result of `read`."""
    if torchaudio_model.is_folder(path):
        return torchaudio_model.outputs(path, waveform, read_pickle)
    language = None if model.output is None else model.output.language
    return huggingface.outputs(path, waveform, huggingface.head_of(model), language)


def write_huggingface(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    os.makedirs(path)
    huggingface.write(model, path)
    language = None if model.output is None else model.output.language
    return Compared(_outputs(model, audio), huggingface.outputs(path, audio, huggingface.written_head(model), language))


def write_torchaudio(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    os.makedirs(path)
    torchaudio_model.write(model, path)
    ours = _outputs(model, audio, encoder_only=True)
    return Compared(ours, torchaudio_model.outputs(path, audio, read_pickle))


def write_onnx(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    onnx_model.write(model, path)
    # lengths and batch sizes that the graph was not traced with
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
