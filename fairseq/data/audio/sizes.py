"""Lengths of utterances at another sample rate, and the utterances of an epoch with weighted corpora."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format, resampled_length
from fairseq.device.base import available_cores

logger = logging.getLogger(__name__)


class _Files(Protocol):
    sizes: np.ndarray

    def file(self, index: int) -> str: ...


def sizes_at_rate(files: _Files, sample_rate: int) -> np.ndarray:
    """Return lengths after conversion to `sample_rate`; reads the rate of every file from its header.

    A file whose header cannot be read keeps its length; it is quarantined when it is used.
    """
    logger.info("task.resample: reading the sample rates of %d files", len(files.sizes))

    def length(index: int) -> int:
        frames = int(files.sizes[index])
        try:
            return resampled_length(frames, audio_format(files.file(index)).sample_rate, sample_rate)
        except UnreadableAudio:
            return frames

    with ThreadPoolExecutor(available_cores()) as pool:
        return np.fromiter(pool.map(length, range(len(files.sizes))), dtype=np.int64, count=len(files.sizes))


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
