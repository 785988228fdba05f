"""Lengths of utterances at another sample rate, and the utterances of an epoch with weighted corpora."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format, resampled_length
from fairseq.data.mapped import shared
from fairseq.device.base import available_cores

logger = logging.getLogger(__name__)
_BLOCK = 256  # utterances of a thread's task, at most
_KEPT = 4096  # files whose rate is kept: the segments of a file usually follow each other


class _Files(Protocol):
    sizes: np.ndarray
    starts: np.ndarray | None

    def file(self, index: int) -> str: ...


class Extents(NamedTuple):
    """Where utterances lie in their files, in samples at the data set's rate."""

    sizes: np.ndarray  # int64
    starts: np.ndarray | None  # int64; None: every utterance is a whole file


class Selection:
    """The lines of a manifest that a data set has, ascending; the first after the root is 0.

    Args:
        total: number of lines.
        kept: those that the data set has, int; all of them take no memory.
    """

    def __init__(self, total: int, kept: np.ndarray) -> None:
        self.total = total
        self._kept = None if len(kept) == total else shared(kept.astype(np.int32))

    @property
    def lines(self) -> np.ndarray:
        return np.arange(self.total, dtype=np.int32) if self._kept is None else self._kept

    def line(self, index: int) -> int:
        """Return the line of an utterance."""
        return int(index) if self._kept is None else int(self._kept[index])

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return the lines of utterances."""
        return indices if self._kept is None else self._kept[indices]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the data set's utterances, given those of all lines."""
        return values if self._kept is None else shared(values[self._kept])

    def without(self, indices: np.ndarray) -> Selection:
        """Return the rest if these utterances are removed."""
        return Selection(self.total, np.delete(self.lines, indices))


def extents(files: _Files, sample_rate: int | None) -> Extents:
    """Return lengths and starts, after conversion to `sample_rate` unless it is None.

    Conversion reads the rate of every file from its header. An utterance whose header cannot be read keeps its
    numbers; it is quarantined when it is used.
    """
    if sample_rate is None:
        return Extents(files.sizes, files.starts)
    logger.info("task.resample: reading the sample rates of %d files", len(files.sizes))

    @lru_cache(_KEPT)
    def rate_of(file: str) -> int:
        try:
            return audio_format(file).sample_rate
        except UnreadableAudio:
            return sample_rate

    cores, count = available_cores(), len(files.sizes)
    block = max(1, min(_BLOCK, count // (4 * cores)))
    found = Extents(files.sizes.copy(), None if files.starts is None else files.starts.copy())

    def convert(first: int) -> None:
        for index in range(first, min(first + block, count)):
            rate = rate_of(files.file(index))
            for column in found:
                if column is not None:
                    column[index] = resampled_length(int(column[index]), rate, sample_rate)

    with ThreadPoolExecutor(cores) as pool:
        for _ in pool.map(convert, range(0, count, block)):
            pass  # raises the thread's errors
    return Extents(shared(found.sizes), None if found.starts is None else shared(found.starts))


def epoch_sample(corpus_sizes: np.ndarray, weights: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Draw the utterances of an epoch with weighted corpora, as MultiCorpusDataset of fairseq's main branch does.

    An epoch has as many utterances as all corpora with a weight above 0, and corpus i gets the share weights[i]: whole
    copies as often as they fit, and a random selection for the rest.

    Args:
        corpus_sizes: number of utterances of each corpus; indices continue from corpus to corpus.
        weights: share of each corpus; they sum to 1.
        rng: the generator for the random selection.
    Returns:
        Indices, int64; copy k of utterance i is i + k * (number of all utterances).
    """
    total = int(corpus_sizes.sum())
    shares = np.asarray(weights, dtype=np.float64)
    used = np.flatnonzero(shares > 0)
    length = int(corpus_sizes[used].sum())
    counts = np.zeros(len(shares), dtype=np.int64)
    counts[used] = (shares[used] * length).astype(np.int64)
    counts[used[-1]] = length - counts[used[:-1]].sum()
    begins = np.cumsum(corpus_sizes) - corpus_sizes
    parts = []
    for corpus in used:
        size = int(corpus_sizes[corpus])
        if size == 0:
            continue
        copies, rest = divmod(int(counts[corpus]), size)
        utterances = begins[corpus] + np.arange(size)
        parts.extend(utterances + copy * total for copy in range(copies))
        parts.append(begins[corpus] + rng.permutation(size)[:rest] + copies * total)
    return np.concatenate(parts)
