"""Minutes of transcribed speech for a probe: one part to train on, one that it never sees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, int64, tensor

from fairseq import text_files
from fairseq.data.audio.manifest import Manifest, Segment
from fairseq.decoding.tokens import DELIMITER, Tokens
from fairseq.evaluation.testset import TestSet

BLANK = "<blank>"
WORDS = "wrd"  # labels of this kind are spelled by the probe
HELD_OUT_SHARE = 0.2  # of the utterances, without a manifest of held-out ones
_SPLIT = 0x591E7  # key of the seed that draws utterances


@dataclass(frozen=True)
class Part:
    """Some utterances of a manifest, with their labels.

    Args:
        audios: where each utterance's audio is.
        seconds: of all of them.
        units: indices of the labels that the tokens have, U each.
        references: words of each.
        unit_references: units of each, separated by spaces.
        speakers: of each; None: not known.
    """

    audios: list[str | Segment]
    seconds: float
    units: list[Tensor]
    references: list[str]
    unit_references: list[str]
    speakers: list[str] | None

    def __len__(self) -> int:
        return len(self.audios)


@dataclass(frozen=True)
class Labelled:
    """A probe's speech.

    Args:
        data: folder of the manifests.
        training, held_out: the two parts, without an utterance in common.
        tokens: the blank, and the units of the training part's labels.
    """

    data: str
    training: Part
    held_out: Part
    tokens: Tokens

    def describe(self) -> str:
        training, held_out = self.training, self.held_out
        return (
            f"{len(training)} utterances to train on ({training.seconds / 60:.1f} min), {len(held_out)} to test on "
            f"({held_out.seconds / 60:.1f} min), {len(self.tokens.symbols) - 1} units"
        )


def has_labels(data: str, subset: str, labels: str) -> bool:
    return os.path.exists(label_file(data, subset, labels))


def label_file(data: str, subset: str, labels: str) -> str:
    return os.path.join(data, f"{subset}.{labels}")


def read_labelled(
    data: str,
    labels: str = "ltr",
    train_subset: str = "train",
    valid_subset: str | None = None,
    minutes: float = 10.0,
    seed: int = 1,
    sample_rate: int = 16000,
) -> Labelled:
    """Read manifests and labels, and draw utterances by seed.

    Args:
        data: folder of the manifests.
        labels: extension of the label files: letters (`ltr`), other units (`phn`), or words (`wrd`), which are spelled.
        valid_subset: name of the manifest of held-out utterances; None: `valid` if it has labels, else a fifth of the
            training manifest's utterances, drawn by seed.
        minutes: largest length of the training part; the held-out part may have half of it.
        sample_rate: that the manifest's lengths are in, in Hz.
    Raises:
        ValueError: a file is missing or cannot be read, line counts differ, or a part is empty.
    """
    if valid_subset is None and has_labels(data, "valid", labels):
        valid_subset = "valid"
    tokens = _tokens(label_file(data, train_subset, labels), labels)
    source = TestSet.read(data, train_subset, labels, tokens)
    order = np.random.default_rng([_SPLIT, seed]).permutation(len(source)).tolist()
    if valid_subset is None:
        held = round(len(order) * HELD_OUT_SHARE)
        other, others, order = source, order[:held], order[held:]
    else:
        other = TestSet.read(data, valid_subset, labels, tokens)
        others = np.random.default_rng([_SPLIT, seed, 1]).permutation(len(other)).tolist()
    training = _part(source, _within(order, source.manifest, minutes * 60 * sample_rate), tokens, sample_rate)
    held_out = _part(other, _within(others, other.manifest, minutes * 30 * sample_rate), tokens, sample_rate)
    for part, name in ((training, "to train the probe on"), (held_out, "held out to test it")):
        if len(part) < 2 or not any(len(units) for units in part.units):
            raise ValueError(
                f"{data} has {len(part)} utterances with labels {name}; it must have at least 2. Name manifests with "
                "transcribed speech, a few minutes of it"
            )
    return Labelled(data, training, held_out, tokens)


def _tokens(path: str, labels: str) -> Tokens:
    """The blank and the units of a label file, in the order of their names."""
    lines = text_files.read_lines(path, "the labels")
    words = labels == WORDS
    found = {unit for line in lines for unit in (spelled(line) if words else line).split()}
    return Tokens.from_symbols([BLANK, *sorted(found | ({DELIMITER} if words else set()))])


def spelled(words: str) -> str:
    """Return the letters of words in the form of a `.ltr` line: `AN OX` becomes `A N | O X |`."""
    return " ".join(" ".join((*word, DELIMITER)) for word in text_files.split(words))


def _within(order: Sequence[int], manifest: Manifest, samples: float) -> list[int]:
    """The first utterances of an order that together have at most so many samples, in the manifest's order."""
    lengths = np.cumsum([int(manifest.sizes[index]) for index in order]) if order else np.zeros(0)
    return sorted(order[: max(1, int((lengths <= samples).sum()))])


def _part(testset: TestSet, chosen: Sequence[int], tokens: Tokens, sample_rate: int) -> Part:
    index_of = {symbol: index for index, symbol in enumerate(tokens.symbols)}
    known = testset.unit_references
    lines = [known[index] if known else spelled(testset.references[index]) for index in chosen]
    speakers = testset.speakers()
    return Part(
        audios=[testset.manifest.audio(index) for index in chosen],
        seconds=sum(int(testset.manifest.sizes[index]) for index in chosen) / sample_rate,
        units=[tensor([index_of[unit] for unit in line.split() if unit in index_of], dtype=int64) for line in lines],
        references=[testset.references[index] for index in chosen],
        unit_references=lines,
        speakers=None if speakers is None else [speakers[index] for index in chosen],
    )
