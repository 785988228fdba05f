"""Plan batches: the utterances of a batch, the batches of an update, and the batch of a rank at each step.

Everything here is computed from indices and sizes, without audio, as a pure function of the arguments: every rank
computes the same plan and takes its share.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fairseq.data.buckets import BucketShapes
from fairseq.data.options import BatchLimits

EVALUATION_EPOCH = 0  # training epochs start at 1, so evaluation's keys for crops and masks differ from training's


class BatchPlan(NamedTuple):
    """Everything a worker needs to create one batch."""

    indices: np.ndarray  # int64, B: the first num_valid rows count, the rest are filler and repeat a real index
    num_valid: int
    num_samples: int  # S: the length that rows are cropped or padded to
    bucket: int
    epoch: int  # keys crops and masks; EVALUATION_EPOCH in evaluation, so that draws are the same every time
    micro: int  # global number of the micro-batch within its update


class Batches(NamedTuple):
    """An epoch's batches, in the order of creation: N batches with K utterances in total."""

    indices: np.ndarray  # int64, K: the utterances of all batches, concatenated
    ends: np.ndarray  # int64, N: end of each batch in `indices`
    rows: np.ndarray  # int64, N: rows, including filler
    lengths: np.ndarray  # int64, N: S
    buckets: np.ndarray  # int64, N

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.ends)

    def plan(self, batch: int, epoch: int, micro: int, filler: bool = False) -> BatchPlan:
        """Return the plan of one batch; with `filler`, of the same shape but without rows that count."""
        begin = int(self.ends[batch - 1]) if batch else 0
        real = self.indices[begin : int(self.ends[batch])]
        rows = int(self.rows[batch])
        if len(real) < rows:
            real = np.concatenate([real, np.full(rows - len(real), real[0])])
        num_valid = 0 if filler else int(self.ends[batch]) - begin
        return BatchPlan(real, num_valid, int(self.lengths[batch]), int(self.buckets[batch]), epoch, micro)


def inverse(permutation: np.ndarray) -> np.ndarray:
    """Return the inverse of a permutation of 0 to N - 1: what `argsort` returns, in a tenth of its time."""
    numbers = np.arange(len(permutation), dtype=np.int32 if len(permutation) < 1 << 31 else np.int64)
    found = np.empty_like(numbers)
    found[permutation] = numbers
    return found


def sorted_by(values: np.ndarray, tie_break: np.ndarray) -> np.ndarray:
    """Return the indices that sort values, ascending, equal ones by `tie_break`: `lexsort` in an eighth of its time.

    Args:
        values: int64, N, 0 or more.
        tie_break: a permutation of 0 to N - 1.
    """
    bits = len(values).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > 63:
        return np.lexsort((tie_break, values))
    keys = values << bits
    keys |= tie_break
    keys.sort()  # plain integers: vectorised
    keys &= (1 << bits) - 1
    return inverse(tie_break)[keys]


def stable_order(numbers: np.ndarray) -> np.ndarray:
    """Return the indices that sort numbers of 0 or more, equal ones in their order."""
    largest, bits = int(numbers.max(initial=0)), len(numbers).bit_length()
    if largest < 1 << 16:
        return np.argsort(numbers.astype(np.uint16), kind="stable")  # 16 bits: sorted by digit
    if largest.bit_length() + bits > 63:
        return np.argsort(numbers, kind="stable")
    keys = numbers.astype(np.int64) << bits
    keys |= np.arange(len(numbers), dtype=np.int32 if bits < 32 else np.int64)
    keys.sort()
    keys &= (1 << bits) - 1
    return keys


def cut_batches(sizes: np.ndarray, limits: BatchLimits) -> np.ndarray:
    """Split a sequence of utterances into batches, in order, each as large as the limits allow.

    Args:
        sizes: samples of each utterance, K, in batching order.
        limits: rows times the longest row's samples are at most `max_tokens`, and rows at most `max_sentences`; a batch
            of more than `multiple` rows is reduced to a multiple of it.
    Returns:
        The end of each batch, int64.
    Raises:
        ValueError: neither limit is set, or a single utterance exceeds `max_tokens`.
    """
    limits.check(int(sizes.max(initial=0)))
    if bool((sizes[1:] <= sizes[:-1]).all()):
        return _cut_descending(sizes, limits)
    max_tokens, max_sentences, multiple = limits.max_tokens, limits.max_sentences, limits.multiple
    total, lengths = len(sizes), np.maximum(sizes, 1)
    ends: list[int] = []
    start = 0
    while start < total:
        rows = total - start if max_sentences is None else min(max_sentences, total - start)
        if max_tokens is not None:
            # a longer row later in the batch ends it earlier
            rows = min(rows, int(max_tokens // lengths[start]))
            longest = np.maximum.accumulate(lengths[start : start + rows])
            rows = int(np.searchsorted(longest * np.arange(1, rows + 1), max_tokens, side="right"))
        if rows > multiple:
            rows -= rows % multiple
        start += rows
        ends.append(start)
    return np.asarray(ends, dtype=np.int64)


def _cut_descending(sizes: np.ndarray, limits: BatchLimits) -> np.ndarray:
    """Cut utterances whose sizes never increase, so that the first row of a batch decides its rows.

    Batches of equal rows are cut together: this takes a step per number of rows, not per batch.
    """
    total = len(sizes)
    most = total if limits.max_sentences is None else limits.max_sentences
    pieces = [np.zeros(0, dtype=np.int64)]
    start = 0
    while start < total:
        allowed, last = most, total  # batches that begin before `last` may have as many rows
        if limits.max_tokens is not None:
            allowed = min(most, limits.max_tokens // max(int(sizes[start]), 1))
            longest = limits.max_tokens // (allowed + 1)  # utterances up to this length allow more rows
            if allowed < most and longest > 0:
                last = bisect.bisect_left(sizes, -longest, lo=start, key=lambda size: -int(size))
        rows = min(allowed, total - start)
        if rows > limits.multiple:
            rows -= rows % limits.multiple
        count = 1
        if start + allowed <= total:  # and as long as the rest is not shorter than a batch
            count = min(-(-(last - start) // rows), (total - allowed - start) // rows + 1)
        pieces.append(start + rows * np.arange(1, count + 1))
        start += rows * count
    return np.concatenate(pieces)


def make_batches(
    sizes: np.ndarray,
    order: np.ndarray,
    limits: BatchLimits,
    pad: bool,
    shapes: BucketShapes | None = None,
) -> Batches:
    """Split ordered utterances into batches, and determine the length of each batch.

    Args:
        sizes: samples of the ordered utterances, K, already clipped to the largest size.
        order: their indices, K.
        limits: the size limits of batches, used without buckets.
        pad: a batch is as long as its longest row (rows are padded); otherwise as its shortest (rows are cropped).
        shapes: bucket shapes. Batches then have exactly these shapes, and the last of each bucket gets filler rows.
    """
    if shapes is None:
        ends = cut_batches(sizes, limits)
        starts = np.concatenate([[0], ends])[:-1].astype(np.int64)
        over_rows = (np.maximum if pad else np.minimum).reduceat(sizes, starts) if len(ends) else ends
        return Batches(order, ends, np.diff(ends, prepend=0), over_rows, np.zeros_like(ends))
    bucket_of = shapes.bucket_of(sizes)
    order = order[stable_order(bucket_of)]
    members = np.bincount(bucket_of, minlength=len(shapes.lengths))
    counts = -(-members // shapes.rows)
    buckets = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(buckets)) - np.repeat(np.cumsum(counts) - counts, counts)  # of a batch within its bucket
    ends = (np.cumsum(members) - members)[buckets] + np.minimum((number + 1) * shapes.rows[buckets], members[buckets])
    return Batches(order, ends, shapes.rows[buckets], shapes.lengths[buckets], buckets)


def update_order(stream: np.ndarray, buckets: np.ndarray, update_size: int) -> np.ndarray:
    """Reorder batches so that the `update_size` batches of an update share a bucket wherever possible.

    A bucket's batches are held until there are enough for an update. Leftover batches come last, bucket by bucket.

    Args:
        stream: batch numbers in the order in which they become available.
        buckets: the bucket of every batch.
        update_size: batches per update.
    Returns:
        A permutation of `stream`; update u has elements u * update_size to (u + 1) * update_size (excluded).
    """
    of_stream = buckets[stream]
    if len(stream) == 0 or (of_stream == of_stream[0]).all():
        return stream
    groups, rest = [], []
    for bucket in np.unique(of_stream):
        places = np.flatnonzero(of_stream == bucket)
        full = len(places) - len(places) % update_size
        groups.append(places[:full].reshape(-1, update_size))
        rest.append(places[full:])
    updates = np.concatenate(groups)
    updates = updates[np.argsort(updates[:, -1])]  # an update is ready when its last batch is
    return stream[np.concatenate([updates.reshape(-1), *rest])]


class Step(NamedTuple):
    """One step of all ranks: one batch per rank, all of the same bucket."""

    batches: list[int]  # the batch number of each rank
    micros: list[int]  # the micro-batch number of each rank
    filler: list[bool]  # True if the rows of a rank's batch do not count


def steps_of_update(update: np.ndarray, buckets: np.ndarray, update_size: int, world_size: int) -> list[Step]:
    """Distribute an update's batches over ranks and steps so that all ranks have the same bucket at each step.

    A bucket's last step is completed with filler batches, so an update with several buckets can take more steps.
    Micro-batch numbers of real batches do not depend on the world size; those of filler start at `update_size`.
    """
    ordered = update[np.argsort(buckets[update], kind="stable")].tolist()
    steps: list[Step] = []
    fillers = 0
    for micro, batch in enumerate(ordered):
        if not steps or len(steps[-1].batches) == world_size or buckets[steps[-1].batches[0]] != buckets[batch]:
            steps.append(Step([], [], []))
        step = steps[-1]
        step.batches.append(batch)
        step.micros.append(micro)
        step.filler.append(False)
    for step in steps:
        while len(step.batches) < world_size:
            step.batches.append(step.batches[-1])
            step.micros.append(update_size + fillers)
            step.filler.append(True)
            fillers += 1
    return steps


def plans_of_rank(
    batches: Batches, sequence: np.ndarray, update_size: int, world_size: int, rank: int, epoch: int
) -> Iterator[list[BatchPlan]]:
    """Yield, for each update, the plans of one rank's steps.

    Args:
        batches: the epoch's batches.
        sequence: batch numbers, to be split into updates of `update_size`.
        epoch: the epoch stored in the plans.
    """
    for start in range(0, len(sequence), update_size):
        steps = steps_of_update(sequence[start : start + update_size], batches.buckets, update_size, world_size)
        yield [batches.plan(step.batches[rank], epoch, step.micros[rank], step.filler[rank]) for step in steps]
