"""Findings about pairs of utterances: the same audio twice, and overlap of training with validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fairseq.corpora.report.anchors import Shared
from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.records import ERROR, SHOWN, WARNING, Finding, Line, counted

_OVERLAP = 0.1  # seconds that segments of one file may share: padding


class Pair(NamedTuple):
    """Two utterances, numbered over all corpora, that share audio."""

    first: int
    second: int
    evidence: str  # how they overlap, such as "the same samples"


class Numbering:
    """Numbers utterances over all corpora."""

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self.corpora = list(corpora)
        self.offsets = np.cumsum([0, *(len(corpus) for corpus in corpora)])
        self.training = np.asarray([corpus.training for corpus in corpora])

    def corpus_of(self, number: int) -> int:
        return int(np.searchsorted(self.offsets, number, side="right")) - 1

    def is_training(self, number: int) -> bool:
        return self.corpora[self.corpus_of(number)].training

    def line(self, number: int, evidence: str = "") -> Line:
        corpus = self.corpus_of(number)
        return self.corpora[corpus].line(int(number - self.offsets[corpus]), evidence)


def equal_pairs(keys: np.ndarray, evidence: str) -> list[Pair]:
    """Pair each utterance with the first that has the same key; 0 is unknown.

    Args:
        keys: uint64, one per utterance over all corpora.
    """
    known = np.flatnonzero(keys)
    order = known[np.argsort(keys[known], kind="stable")]
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[len(order) > 0], ordered[1:] != ordered[:-1]]))
    first = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return [
        Pair(one, other, evidence) for one, other in zip(first.tolist(), order.tolist(), strict=True) if one != other
    ]


def overlapping_segments(places: np.ndarray, starts: np.ndarray, sizes: np.ndarray, rates: np.ndarray) -> list[Pair]:
    """Pair segments of one file that share more than 0.1 s with the one before.

    Args:
        places: uint64, a checksum of each utterance's file name; 0: not a segment.
        starts, sizes: int64, samples.
        rates: Hz; 0: unknown, not judged.
    """
    known = np.flatnonzero((places != 0) & (rates > 0))
    order = known[np.lexsort((starts[known], places[known]))]
    pairs = []
    reaches, owner, place = 0, -1, None
    for number in order.tolist():
        start, end = int(starts[number]), int(starts[number] + sizes[number])
        if places[number] != place:
            place, reaches, owner = places[number], end, number
            continue
        shared = (min(reaches, end) - start) / float(rates[number])
        if shared > _OVERLAP:
            pairs.append(Pair(min(owner, number), max(owner, number), f"{shared:.1f} s in common"))
        if end > reaches:
            reaches, owner = end, number
    return pairs


def shared_pairs(
    shared: Sequence[Shared], known: set[tuple[int, int]], lengths: Callable[[int], tuple[int, int]]
) -> list[Pair]:
    """Turn utterances with common anchors into pairs.

    Args:
        shared: see AnchorTable.shared; utterances are numbered over all corpora.
        known: pairs that are reported already.
        lengths: returns (samples, Hz) of an utterance.
    """
    best: dict[tuple[int, int], Shared] = {}
    for one in shared:
        pair = (one.first, one.second)
        if pair not in known and (pair not in best or best[pair].places < one.places):
            best[pair] = one
    pairs = []
    for (first, second), one in best.items():
        size, rate = lengths(first)
        other, _ = lengths(second)
        begin, end = max(0, one.distance), min(size, one.distance + other)
        pairs.append(Pair(first, second, f"about {max(0, end - begin) / rate:.1f} s in common"))
    return pairs


def across(pairs: Sequence[Pair], numbering: Numbering) -> Finding | None:
    """Training and validation share audio."""
    return _finding(
        "train-in-valid",
        ERROR,
        "Validation audio that is also in training",
        "Remove these lines from training or from validation: the validation loss would look better than it is.",
        [pair for pair in pairs if numbering.is_training(pair.first) != numbering.is_training(pair.second)],
        numbering,
    )


def duplicates(pairs: Sequence[Pair], numbering: Numbering) -> Finding | None:
    """One recording is listed more than once."""
    return _finding(
        "duplicate",
        WARNING,
        "Exact copies",
        "Remove all but one of each: copies count more often in training, and are each other's negatives.",
        [pair for pair in pairs if numbering.is_training(pair.first) == numbering.is_training(pair.second)],
        numbering,
    )


def cut_twice(pairs: Sequence[Pair], numbering: Numbering) -> Finding | None:
    """Two utterances were cut from the same stretch of a recording."""
    return _finding(
        "cut-twice",
        WARNING,
        "Parts of one recording that overlap",
        "Keep one of each pair, or cut the recording again with fairseq-segment.",
        [pair for pair in pairs if numbering.is_training(pair.first) == numbering.is_training(pair.second)],
        numbering,
    )


def _finding(
    name: str, severity: str, title: str, change: str, pairs: Sequence[Pair], numbering: Numbering
) -> Finding | None:
    if not pairs:
        return None
    lines = []
    for pair in sorted(pairs, key=lambda pair: (pair.second, pair.first))[:SHOWN]:
        other = numbering.line(pair.first)
        lines.append(numbering.line(pair.second, f"{pair.evidence} with {other.manifest}:{other.number}: {other.name}"))
    return Finding(name, severity, title, change, len(pairs), lines)


def speakers_across(speakers: Sequence[dict[str, int]], numbering: Numbering) -> Finding | None:
    """Speakers are in both training and validation.

    Args:
        speakers: of each corpus, every speaker's first utterance.
    """
    in_training: dict[str, int] = {}
    for number, known in enumerate(speakers):
        if numbering.corpora[number].training:
            for speaker, index in known.items():
                in_training.setdefault(speaker, int(numbering.offsets[number]) + index)
    lines = []
    both: set[str] = set()
    for number, known in enumerate(speakers):
        if numbering.corpora[number].training:
            continue
        for speaker, index in known.items():
            if speaker in in_training:
                both.add(speaker)
                other = numbering.line(in_training[speaker])
                evidence = f"speaker {speaker}, as {other.manifest}:{other.number}: {other.name}"
                lines.append(numbering.corpora[number].line(index, evidence))
    if not both:
        return None
    return Finding(
        "speakers-in-valid",
        WARNING,
        f"{counted(len(both), 'speaker')} in both training and validation; one line of each",
        "Split by speaker to measure on unknown voices.",
        len(both),
        lines[:SHOWN],
    )
