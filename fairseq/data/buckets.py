"""Few batch shapes: lengths are rounded up to buckets, and every batch of a bucket has the same number of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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


def bucket_shapes(
    lengths: np.ndarray, max_tokens: int | None, max_sentences: int | None, multiple: int
) -> BucketShapes:
    """How many rows a batch of each bucket has: as many as `max_tokens` samples and `max_sentences` rows allow.

    Args:
        multiple: `dataset.required_batch_size_multiple`; a row count of at least this is rounded down to a multiple of
            it.
    Raises:
        ValueError: neither limit is given, or a bucket is longer than `max_tokens`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    check_limits(int(lengths.max(initial=0)), max_tokens, max_sentences)
    rows = np.full(len(lengths), np.iinfo(np.int64).max if max_sentences is None else max_sentences)
    if max_tokens is not None:
        rows = np.minimum(rows, max_tokens // np.maximum(lengths, 1))
    return BucketShapes(lengths, np.where(rows >= multiple, rows - rows % multiple, rows))


def check_limits(longest: int, max_tokens: int | None, max_sentences: int | None) -> None:
    """Raise ValueError if no batch can be made of utterances up to `longest` samples under these limits."""
    if max_tokens is None and max_sentences is None:
        raise ValueError(
            "neither dataset.max_tokens (audio samples a batch) nor dataset.batch_size (utterances a batch) is set: "
            "set one"
        )
    if max_sentences is not None and max_sentences < 1:
        raise ValueError(f"dataset.batch_size is {max_sentences}; it must be at least 1")
    if max_tokens is not None and longest > max_tokens:
        raise ValueError(
            f"dataset.max_tokens is {max_tokens}, but the longest utterance has {longest} samples after "
            f"task.max_sample_size: raise dataset.max_tokens, or set task.max_sample_size to {max_tokens} or less to "
            "crop"
        )
