"""Few batch shapes: lengths are rounded up to buckets, and every batch of a bucket has the same number of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.data.options import BatchLimits


class BucketShapes(NamedTuple):
    """The shapes B x S that a run's batches may have, ascending by length."""

    lengths: np.ndarray  # int64, samples
    rows: np.ndarray  # int64, utterances a batch, filler included

    def bucket_of(self, sizes: np.ndarray) -> np.ndarray:
        """Number of the smallest bucket that holds each size."""
        return np.searchsorted(self.lengths, sizes)


def get_buckets(sizes: np.ndarray, num_buckets: int) -> np.ndarray:
    """At most `num_buckets` ascending lengths, quantiles of `sizes`: every size fits into one, and each is a size
    that occurs.
    """
    return np.unique(np.percentile(sizes, np.linspace(0, 100, num_buckets + 1)[1:], method="lower"))


def get_bucketed_sizes(orig_sizes: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Each size rounded up to its bucket's length."""
    return np.asarray(buckets)[np.searchsorted(buckets, orig_sizes)]


def bucket_shapes(lengths: np.ndarray, limits: BatchLimits) -> BucketShapes:
    """How many rows a batch of each bucket has: as many as the limits allow; a row count of at least
    `limits.multiple` is rounded down to a multiple of it.

    Raises:
        ValueError: neither limit is given, or a bucket is longer than `max_tokens`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    limits.check(int(lengths.max(initial=0)))
    unlimited = np.iinfo(np.int64).max
    rows = np.full(len(lengths), unlimited if limits.max_sentences is None else limits.max_sentences)
    if limits.max_tokens is not None:
        rows = np.minimum(rows, limits.max_tokens // np.maximum(lengths, 1))
    return BucketShapes(lengths, np.where(rows >= limits.multiple, rows - rows % limits.multiple, rows))
