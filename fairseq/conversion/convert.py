"""Convert a model to another format and compare both before publishing; the code behind `fairseq-convert`."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq.checkpoint import hub, io, kinds
from fairseq.conversion import adapter_file, adapters, fairseq2_model, foreign, portable_model, vocabulary
from fairseq.conversion.foreign import WRITERS, Compared
from fairseq.conversion.portable_model import PortableModel
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.pretrained import symbols_of
from fairseq.text_files import MissingFileError

logger = logging.getLogger("fairseq_cli.convert")  # the name in the command's log lines

TARGETS = ("fairseq", "adapter", *WRITERS)
TOLERANCE = 1e-3  # relative to the largest output: above rounding errors of any model size, below any real mistake
WAVEFORM_SECONDS = 2.0


class Opened(NamedTuple):
    """A model, and a function that runs it in its own tool; None for fairseq."""

    model: PortableModel
    theirs: Callable[[Tensor], list[Tensor]] | None
    checkpoint: dict[str, Any] | None = None  # what a file of fairseq holds


def load(path: str, dictionary: str | None = None, language: str | None = None, adapter: str | None = None) -> Opened:
    """Read a model of any format.

    Args:
        dictionary: file with the symbols of a fine-tuned checkpoint.
        language: of a transformers folder or an MMS checkpoint, the one whose adapters to read; of another checkpoint
            with adapters, their name.
        adapter: a file or a language to use with the model's encoder, see `adapters.opened`.
    Raises:
        ValueError: the file is not a model, is damaged, or cannot be represented in fairseq.
    """
    if hub.is_id(path):  # with the adapters of the language
        path = hub.with_adapter(path, language if adapter is None else adapter)
    if adapter is not None:
        return _load_with(path, adapter, language)
    if foreign.is_folder(path):
        if dictionary is not None:
            logger.warning(
                f"--dict {dictionary} has no effect: {path} is a folder, whose tokenizer or labels define the outputs"
            )
        model = foreign.read(path, io.read, language)
        return Opened(model, lambda waveform: foreign.run(path, model, waveform, io.read))
    if not kinds.exists(path):
        raise MissingFileError(f"the checkpoint or folder {path} does not exist")
    if not kinds.is_checkpoint(path):
        raise ValueError(f"{path} is not a checkpoint or a folder with a config.json")
    given = None if dictionary is None else Dictionary.load(dictionary)
    if fairseq2_model.weights_of(io.read(path, with_tensors=False)) is not None:
        weights = fairseq2_model.weights_of(io.read(path))
        assert weights is not None, "the same file"
        symbols = None if given is None else list(given.symbols)
        return Opened(fairseq2_model.read(weights, path, symbols), None)
    state = io.load(path)
    if language is not None and adapters.languages_in(state):
        return _load_with(path, language, language, state)
    if given is not None:
        difference = vocabulary.difference(symbols_of(state), given.symbols)
        if difference is not None:
            logger.warning(
                f"--dict {dictionary} takes precedence over the dictionary in {path}, which differs: {difference}"
            )
        state["task_state"] = {"target_symbols": given.state_dict()}
    model = portable_model.from_checkpoint(state, path)
    if language is not None:
        if model.output is None:
            raise ValueError(f"--language is {language}, but {path} is not fine-tuned, so it has no language")
        model = model._replace(output=model.output._replace(language=language))
    return Opened(model, None, state)


def _load_with(path: str, adapter: str, language: str | None, state: dict[str, Any] | None = None) -> Opened:
    """Read a model's encoder, and give it an adapter and its output layer."""
    if foreign.is_folder(path):
        encoder = foreign.read(path, io.read, with_head=False)
    else:
        state = io.load(path) if state is None else state
        encoder = portable_model.encoder_in(state, path)
    model = adapters.apply(encoder, adapters.opened(adapter, path, state, io.read))
    if language is not None and model.output is not None:
        model = model._replace(output=model.output._replace(language=language))
    return Opened(model, None)


def waveform(sample_rate: int) -> Tensor:
    """Return test audio, 1 x S: intermittent tones in noise, with zero mean and unit variance."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(int(WAVEFORM_SECONDS * sample_rate)) / sample_rate
    low, high = (
        torch.sin(2 * torch.pi * hertz * time) * (torch.sin(2 * torch.pi * rate * time) > 0)
        for hertz, rate in ((220, 3), (700, 1.3))
    )
    audio = low + high + 0.3 * torch.randn(len(time), generator=generator)
    return ((audio - audio.mean()) / audio.std()).unsqueeze(0)


def compare(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference between two models' outputs.

    Raises:
        ValueError: the difference is above TOLERANCE, or the shapes differ.
    """
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape:
            raise ValueError(
                f"the two models' outputs have different shapes, {tuple(one.shape)} and {tuple(other.shape)}. "
                "Nothing was written"
            )
        difference = (one - other).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, one.abs().max().item()):
            raise ValueError(f"the two models' outputs differ by {difference:.3g}. Nothing was written")
        largest = max(largest, difference)
    return largest


def convert(
    path: str,
    output: str,
    to: str,
    dictionary: str | None = None,
    language: str | None = None,
    adapter: str | None = None,
) -> float:
    """Write the model at `path` in another format, one of TARGETS.

    The output gets its final name only after it is complete and compared.

    Args:
        dictionary: see `load`.
        language: see `load`; with `to` hf, the written adapters get this name.
        adapter: see `load`.
    Returns:
        The largest difference between the two models' outputs on a test waveform.
    Raises:
        ValueError: see `load`; or `output` exists, the other format cannot represent the model, or the outputs differ.
    """
    if os.path.lexists(output):
        raise ValueError(f"{output} already exists: choose another name, or remove it")
    opened = load(path, dictionary, language, adapter)
    if to == "adapter":
        adapter_file.check(opened.checkpoint, path)
    audio = waveform(opened.model.task["sample_rate"])
    temporary = f"{output.rstrip(os.sep)}.unfinished.{os.getpid()}"
    try:
        largest = compare(*_write(opened, to, temporary, audio))
        os.rename(temporary, output)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary)
        elif os.path.exists(temporary):
            os.remove(temporary)
    return largest


def _write(opened: Opened, to: str, path: str, audio: Tensor) -> Compared:
    if to == "adapter":
        return _write_adapter(opened, path, audio)
    return _write_fairseq(opened, path, audio) if to == "fairseq" else WRITERS[to](opened.model, path, audio, io.read)


def _write_adapter(opened: Opened, path: str, audio: Tensor) -> Compared:
    assert opened.checkpoint is not None  # checked
    adapter_file.save(opened.checkpoint, path)
    base = portable_model.encoder_in(adapter_file.without(opened.checkpoint), path)
    adapter = adapters.written(Path(path))
    assert adapter is not None  # `save` wrote it
    again = portable_model.build(adapters.apply(base, adapter))
    return Compared(
        portable_model.outputs(portable_model.build(opened.model), audio), portable_model.outputs(again, audio)
    )


def _write_fairseq(opened: Opened, path: str, audio: Tensor) -> Compared:
    io.save(portable_model.to_checkpoint(opened.model), path)
    written = portable_model.build(portable_model.from_checkpoint(io.load(path), path))
    ours = portable_model.outputs(written, audio, opened.model.has_new_parts)
    if opened.theirs is None:
        theirs = portable_model.outputs(portable_model.build(opened.model), audio)
    else:
        theirs = opened.theirs(audio)
    rows = None if opened.model.output is None else opened.model.output.their_rows
    if rows is not None:  # compare the rows that both have
        shared = [(place, row) for place, row in enumerate(rows) if row is not None]
        ours, theirs = [ours[0][..., [place for place, _ in shared]]], [theirs[0][..., [row for _, row in shared]]]
    return Compared(ours, theirs)
