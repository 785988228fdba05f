"""Lengths of utterances at another sample rate, and how often each is met where several corpora are weighted."""

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
    """Lengths after conversion to `sample_rate`; reads every file's header for its own rate.

    A file whose header cannot be read keeps its length: it is quarantined when its turn comes.
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
    """Which utterances an epoch holds where corpora are weighted.

    An epoch is as long as all corpora of a weight above 0 together, and corpus i has the share weights[i] of it: whole
    copies of itself as often as they fit, and a random choice for the rest. fairseq: main's MultiCorpusDataset.

    Args:
        corpus_sizes: utterances of each corpus; they are numbered through, corpus after corpus.
        weights: sum to 1.
    Returns:
        int64; copy k of utterance i is i + k * (number of all utterances).
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
