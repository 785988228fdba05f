"""Formats of other tools: detect, read, write and run them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.conversion import exported_model, huggingface, onnx_model, portable_model, torchaudio_model
from fairseq.conversion.portable_model import PortableModel

logger = logging.getLogger("fairseq_cli.convert")  # the name in the command's log lines

ReadPickle = Callable[[str], dict[str, Any]]  # the restricted reader of checkpoints


class Compared(NamedTuple):
    """Outputs of two forms of a model for the same audio; see `portable_model.outputs`."""

    ours: list[Tensor]
    theirs: list[Tensor]


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a folder written by transformers, or by `torchaudio_model`."""
    return torchaudio_model.is_folder(path) or huggingface.is_folder(path)


def read(
    path: str | os.PathLike[str], read_pickle: ReadPickle, language: str | None = None, with_head: bool = True
) -> PortableModel:
    """Read the model in a folder.

    Args:
        language: whose adapters and output layer to read, of a transformers folder that has several languages.
        with_head: read the output layer and its symbols; else only the encoder.
    Raises:
        ValueError: fairseq cannot represent the model, or its files are damaged or missing.
    """
    if not torchaudio_model.is_folder(path):
        return huggingface.read(path, read_pickle, language, with_head)
    if language is not None:
        raise ValueError(f"--language is {language}, but {path} has one model without adapters: leave it out")
    model = torchaudio_model.read(path, read_pickle)
    return model if with_head else model._replace(output=None)


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
    return _compare_padded(model, path, audio, onnx_model.outputs)


def write_exported(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    exported_model.write(model, path)
    return _compare_padded(model, path, audio, exported_model.outputs)


def _compare_padded(
    model: PortableModel, path: str, audio: Tensor, run: Callable[[str, list[Tensor], list[Tensor]], list[Tensor]]
) -> Compared:
    """Compare at lengths, batch sizes and with padding that the graph was not recorded with."""
    built = portable_model.build(model)
    short = audio[:, : audio.size(1) // 3]
    padded = F.pad(short, (0, audio.size(1) - short.size(1)))
    batches = [audio, torch.cat([padded, audio, padded])]
    lengths = [torch.tensor([audio.size(1)]), torch.tensor([short.size(1), audio.size(1), short.size(1)])]
    ours = [portable_model.outputs(built, source)[0] for source in (audio, short)]
    whole, several = run(path, batches, lengths)
    return Compared([ours[0], ours[0], ours[1]], [whole, several[1:2], several[:1, : ours[1].size(1)]])


def write_onnx_int8(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    """Compare the fp32 graph; how far the one in int8 is from it is logged, since it cannot be equal."""
    whole = f"{path}.fp32"
    try:
        compared = write_onnx(model, whole, audio, read_pickle)
    finally:
        if os.path.exists(whole):
            os.remove(whole)
    onnx_model.write_int8(model, path)
    _log_int8(compared.ours[0], onnx_model.outputs(path, [audio], [torch.tensor([audio.size(1)])])[0])
    return compared


def write_sherpa(model: PortableModel, path: str, audio: Tensor, read_pickle: ReadPickle) -> Compared:
    onnx_model.write_sherpa(model, path)
    ours = _outputs(model, audio)
    fp32, int8 = (os.path.join(path, name) for name in onnx_model.SHERPA_FILES[:2])
    _log_int8(ours[0], onnx_model.outputs(int8, [audio])[0])
    return Compared(ours, onnx_model.outputs(fp32, [audio]))


def _log_int8(ours: Tensor, theirs: Tensor) -> None:
    share = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    logger.info("int8: the likeliest symbol is that of fp32 in %.1f %% of the frames of the test audio", 100 * share)


def _outputs(model: PortableModel, audio: Tensor, encoder_only: bool = False) -> list[Tensor]:
    return portable_model.outputs(portable_model.build(model), audio, encoder_only)


# name -> writes a model to `path` and runs both forms on audio B x S
WRITERS: dict[str, Callable[[PortableModel, str, Tensor, ReadPickle], Compared]] = {
    "hf": write_huggingface,
    "torchaudio": write_torchaudio,
    "onnx": write_onnx,
    "onnx-int8": write_onnx_int8,
    "sherpa-onnx": write_sherpa,
    "pt2": write_exported,
}
