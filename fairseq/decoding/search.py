"""Prefix beam search in numpy: all hypotheses of a frame are expanded at once.

It finds what flashlight's search finds, with the same scores: same candidates, same merging, same pruning. It needs no
compiled package, so it runs on every Python.

Source: Graves and Jaitly 2014 (prefix search); Hannun et al. 2014 (language model at word ends); Collobert et al. 2016
(scores of a lexicon's prefixes).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from fairseq.decoding.trie import ROOT

# A candidate this much worse than the last one that fits in the beam adds less than 1e-8 to any that it merges with
_NEGLIGIBLE = 20.0
_MERGED = 8  # candidates that at most become one hypothesis in practice: with and without blank, and by spelling


class Found(NamedTuple):
    """One result of a search."""

    score: float
    path: np.ndarray  # a token per frame, T
    labels: list[tuple[int, int]]  # (number of the word, frame in which it ended); empty without a lexicon


class Beam(NamedTuple):
    """Hypotheses after a frame, H each."""

    score: np.ndarray
    history: np.ndarray  # number of the sequence of words, or of units, that the language model saw
    node: np.ndarray  # of the lexicon
    token: np.ndarray  # in this frame; a frame of the blank keeps it in mind as the blank
    blank: np.ndarray  # whether this frame is the blank
    parent: np.ndarray  # hypothesis of the previous frame
    label: np.ndarray  # word that ended in this frame, or -1

    @classmethod
    def of(
        cls,
        score: np.ndarray,
        history: np.ndarray,
        node: np.ndarray,
        token: np.ndarray | int,
        parent: np.ndarray,
        *,
        blank: bool | np.ndarray = False,
        label: np.ndarray | int = -1,
    ) -> Beam:
        """Build from arrays, N each, and constants."""
        size = len(score)
        return cls(
            score,
            history,
            node,
            token if isinstance(token, np.ndarray) else np.full(size, token, dtype=np.int64),
            np.full(size, blank) if isinstance(blank, bool) else blank,
            parent,
            label if isinstance(label, np.ndarray) else np.full(size, label, dtype=np.int64),
        )

    def take(self, chosen: np.ndarray) -> Beam:
        return Beam(*(part[chosen] for part in self))


class Expansion(Protocol):
    """What hypotheses can become: with a lexicon (`WordExpansion`) or without one (`UnitExpansion`)."""

    num_nodes: int

    def start(self) -> int:
        """Begin an utterance; returns the number of the empty history."""
        ...

    def candidates(self, beam: Beam, frame: np.ndarray, usable: np.ndarray | None) -> list[Beam]:
        """Return what the hypotheses can become in a frame of log-probabilities V; `usable`: tokens to consider."""
        ...

    def finish(self, beam: Beam) -> tuple[np.ndarray, np.ndarray]:
        """Return which hypotheses may end, and the scores of ending."""
        ...


class Limits(NamedTuple):
    """How much of a beam is kept."""

    size: int
    tokens: int | None  # per frame; None: all
    threshold: float
    log_add: bool


def search(expansion: Expansion, limits: Limits, log_probs: np.ndarray, silence: int, nbest: int) -> list[Found]:
    """Search log-probabilities T x V; returns at most `nbest` results, best first."""
    first, zero = expansion.start(), np.zeros(1, dtype=np.int64)
    beam = Beam.of(np.zeros(1), np.array([first]), zero + ROOT, silence, zero)
    trace: list[Beam] = []
    for frame in log_probs.astype(np.float64):
        usable = None
        if limits.tokens is not None and limits.tokens < len(frame):
            usable = np.zeros(len(frame), dtype=bool)
            usable[np.argsort(-frame, kind="stable")[: limits.tokens]] = True
        together = _concatenated(expansion.candidates(beam, frame, usable))
        beam = _kept(together, expansion.num_nodes, len(frame), limits)
        trace.append(beam)
    ends, scores = expansion.finish(beam)
    size = len(ends)
    last = Beam.of(beam.score[ends] + scores, beam.history[ends], beam.node[ends], silence, np.arange(len(beam.score)))
    last = last._replace(parent=ends) if size else last
    last = _kept(last, expansion.num_nodes, log_probs.shape[1], limits)
    return [_traced(trace, int(last.parent[rank]), float(last.score[rank])) for rank in range(len(last.score))[:nbest]]


def _concatenated(parts: list[Beam]) -> Beam:
    return Beam(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _kept(candidates: Beam, num_nodes: int, num_tokens: int, limits: Limits) -> Beam:
    """Merge candidates that are the same prefix, and keep the best, best first."""
    score = candidates.score
    if len(score) == 0:
        return candidates
    least = score.max() - limits.threshold
    pool = limits.size * _MERGED
    if len(score) > pool:
        least = max(least, np.partition(score, -pool)[-pool] - _NEGLIGIBLE)
    chosen = np.flatnonzero(score >= least)
    score = score[chosen]
    prefix = (candidates.history[chosen] * num_nodes + candidates.node[chosen]) * (2 * num_tokens)
    prefix += 2 * candidates.token[chosen] + candidates.blank[chosen]
    order = np.lexsort((-score, prefix))  # the best of a prefix is its first
    prefix, score = prefix[order], score[order]
    firsts = np.flatnonzero(np.concatenate([[True], prefix[1:] != prefix[:-1]]))
    best = score[firsts]
    if limits.log_add and len(firsts) < len(score):
        sizes = np.diff(np.append(firsts, len(score)))
        total = np.add.reduceat(np.exp(score - np.repeat(best, sizes)), firsts)
        best = best + np.log(total)
    ranks = np.argsort(-best, kind="stable")[: limits.size]
    return candidates.take(chosen[order[firsts[ranks]]])._replace(score=best[ranks])


def _traced(trace: list[Beam], place: int, score: float) -> Found:
    path, labels = np.zeros(len(trace), dtype=np.int64), []
    for frame in range(len(trace) - 1, -1, -1):
        beam = trace[frame]
        path[frame] = beam.token[place]
        if beam.label[place] >= 0:
            labels.append((int(beam.label[place]), frame))
        place = int(beam.parent[place])
    return Found(score, path, labels[::-1])
