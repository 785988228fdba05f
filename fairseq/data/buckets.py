"""Buckets limit the number of batch shapes: lengths are rounded up, and all batches of a bucket have equal rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.data.options import BatchLimits


class BucketShapes(NamedTuple):
    """The possible batch shapes B x S of a run, ascending by length."""

    lengths: np.ndarray  # int64, samples
    rows: np.ndarray  # int64, utterances per batch, including filler

    def bucket_of(self, sizes: np.ndarray) -> np.ndarray:
        """Return the index of the smallest bucket that fits each size."""
        return np.searchsorted(self.lengths, sizes)


def get_buckets(sizes: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return at most `num_buckets` ascending lengths: quantiles of `sizes`, each an existing size, the last the max."""
    return np.unique(np.percentile(sizes, np.linspace(0, 100, num_buckets + 1)[1:], method="lower"))


def get_bucketed_sizes(orig_sizes: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Round each size up to the length of its bucket."""
    return np.asarray(buckets)[np.searchsorted(buckets, orig_sizes)]


def bucket_shapes(lengths: np.ndarray, limits: BatchLimits) -> BucketShapes:
    """Return the shape of each bucket's batches, with as many rows as the limits allow.

    A row count of at least `limits.multiple` is rounded down to a multiple of it.

    Raises:
        ValueError: neither limit is set, or a bucket is longer than `max_tokens`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    limits.check(int(lengths.max(initial=0)))
    unlimited = np.iinfo(np.int64).max
    rows = np.full(len(lengths), unlimited if limits.max_sentences is None else limits.max_sentences)
    if limits.max_tokens is not None:
        rows = np.minimum(rows, limits.max_tokens // np.maximum(lengths, 1))
    return BucketShapes(lengths, np.where(rows >= limits.multiple, rows - rows % limits.multiple, rows))
