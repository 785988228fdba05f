"""Plans: batches, buckets, updates and steps, as numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fairseq.data.batching import (
    cut_batches,
    inverse,
    make_batches,
    plans_of_rank,
    sorted_by,
    stable_order,
    steps_of_update,
    update_order,
)
from fairseq.data.buckets import bucket_shapes
from fairseq.data.options import BatchLimits


def batch_sizes(sizes: list[int], limits: BatchLimits) -> list[int]:
    return np.diff(cut_batches(np.array(sizes), limits), prepend=0).tolist()


def test_rows_times_longest_stay_below_max_tokens() -> None:
    assert batch_sizes([50, 50, 40, 30, 10], BatchLimits(100)) == [2, 2, 1]
    assert batch_sizes([10, 30, 40, 50, 50], BatchLimits(100)) == [2, 2, 1]  # 10 30 | 40 50 | 50, in any order
    rng = np.random.default_rng(0)
    for sizes in (np.sort(rng.integers(1, 500, 300))[::-1], rng.integers(1, 500, 300)):
        start = 0
        ends = cut_batches(sizes, BatchLimits(1000, 7))
        for end in ends.tolist():
            assert (end - start) * sizes[start:end].max() <= 1000 and end - start <= 7
            full = end == len(sizes) or end - start == 7 or (end - start + 1) * sizes[start : end + 1].max() > 1000
            assert full, "a batch has room for the next utterance"
            start = end
        assert ends[-1] == len(sizes)


def test_required_multiple_cuts_batches_that_reach_it() -> None:
    assert batch_sizes([10] * 30, BatchLimits(110, None, 8)) == [8, 8, 8, 6]
    assert batch_sizes([10] * 11, BatchLimits(50, None, 8)) == [
        5,
        5,
        1,
    ]  # five fit: fewer than the multiple are left as they are
    assert batch_sizes([10] * 30, BatchLimits(None, 12, 4)) == [12, 12, 4, 2]


def one_by_one(sizes: list[int], limits: BatchLimits) -> list[int]:
    """Ends of the batches of descending sizes, a batch at a time."""
    ends = [0]
    while ends[-1] < len(sizes):
        rows = len(sizes) - ends[-1]
        if limits.max_sentences is not None:
            rows = min(rows, limits.max_sentences)
        if limits.max_tokens is not None:
            rows = min(rows, limits.max_tokens // max(sizes[ends[-1]], 1))
        ends.append(ends[-1] + (rows - rows % limits.multiple if rows > limits.multiple else rows))
    return ends[1:]


def test_batches_cut_together_are_those_cut_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        longest = int(rng.choice([3, 20, 200]))
        sizes = np.sort(rng.integers(0, longest, int(rng.integers(0, 80))))[::-1]
        tokens, sentences = (int(rng.integers(low, high)) for low, high in ((longest, 20 * longest), (1, 30)))
        limits = [BatchLimits(tokens), BatchLimits(None, sentences), BatchLimits(tokens, sentences)][rng.integers(3)]
        limits = replace(limits, multiple=int(rng.integers(1, 9)))
        found = cut_batches(sizes, limits)
        assert found.dtype == np.int64 and found.tolist() == one_by_one(sizes.tolist(), limits), (sizes, limits)


def test_fast_sorting_is_sorting() -> None:
    rng = np.random.default_rng(0)
    for largest in (1, 5, 1000, 10**6, 2**62):
        for count in (0, 1, 2, 100, 1000):
            values, ties = rng.integers(0, largest, count), rng.permutation(count)
            assert sorted_by(values, ties).tolist() == np.lexsort((ties, values)).tolist()
            assert stable_order(values).tolist() == np.argsort(values, kind="stable").tolist()
            assert inverse(ties).tolist() == np.argsort(ties).tolist()


def test_limits_that_allow_no_batch_are_errors() -> None:
    with pytest.raises(ValueError, match="max_sample_size"):
        cut_batches(np.array([50, 200]), BatchLimits(100))
    with pytest.raises(ValueError, match="max_tokens.*batch_size"):
        cut_batches(np.array([50]), BatchLimits())
    with pytest.raises(ValueError, match="batch_size is 0"):
        cut_batches(np.array([50]), BatchLimits(None, 0))


def test_batch_length_is_the_shortest_or_with_padding_the_longest() -> None:
    sizes, order = np.array([10, 20, 30, 40]), np.array([3, 2, 1, 0])
    cropped = make_batches(sizes[order], order, BatchLimits(80), pad=False)
    padded = make_batches(sizes[order], order, BatchLimits(80), pad=True)
    assert cropped.ends.tolist() == padded.ends.tolist() == [2, 4]
    assert cropped.lengths.tolist() == [30, 10]
    assert padded.lengths.tolist() == [40, 20]
    assert cropped.plan(1, 5, 2).indices.tolist() == [1, 0]


def test_a_bucket_has_one_shape() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(10, 101, 200)
    shapes = bucket_shapes(np.array([40, 70, 100]), BatchLimits(400, 8, 2))
    assert shapes.rows.tolist() == [8, 4, 4]
    order = rng.permutation(200)
    batches = make_batches(sizes[order], order, BatchLimits(400, 8, 2), True, shapes)
    seen = []
    for number in range(len(batches)):
        plan = batches.plan(number, 1, 0)
        assert (len(plan.indices), plan.num_samples) == (shapes.rows[plan.bucket], shapes.lengths[plan.bucket])
        real = plan.indices[: plan.num_valid]
        assert (shapes.bucket_of(sizes[real]) == plan.bucket).all()
        assert set(plan.indices[plan.num_valid :].tolist()) <= set(real.tolist())
        seen += real.tolist()
    assert sorted(seen) == list(range(200))


def test_buckets_without_padding_or_room_are_errors() -> None:
    with pytest.raises(ValueError, match="max_tokens is 60"):
        bucket_shapes(np.array([40, 70]), BatchLimits(60))


def test_updates_share_a_bucket_as_far_as_possible() -> None:
    buckets = np.array([0, 1, 0, 1, 0, 1, 1, 0, 2, 1])
    stream = np.arange(10)
    order = update_order(stream, buckets, 2)
    assert order.tolist() == [0, 2, 1, 3, 5, 6, 4, 7, 9, 8]
    assert [buckets[order[i : i + 2]].tolist() for i in range(0, 10, 2)] == [[0, 0], [1, 1], [1, 1], [0, 0], [1, 2]]
    assert update_order(stream, np.zeros(10, dtype=int), 4).tolist() == stream.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_all_ranks_have_one_bucket_at_a_step_and_real_batches_come_once(world_size: int) -> None:
    buckets = np.array([0, 2, 2, 1, 0, 2])
    steps = steps_of_update(np.arange(6), buckets, 6, world_size)
    real = [(batch, micro) for step in steps for batch, micro, filler in zip(*step, strict=True) if not filler]
    # the same micro numbers for every world size
    assert sorted(real) == [(0, 0), (1, 3), (2, 4), (3, 2), (4, 1), (5, 5)]
    fillers = [micro for step in steps for micro, filler in zip(step.micros, step.filler, strict=True) if filler]
    assert fillers == list(range(6, 6 + len(fillers)))
    for step in steps:
        assert len(step.batches) == world_size
        assert len({int(buckets[batch]) for batch in step.batches}) == 1


def test_plans_of_a_rank_and_their_filler() -> None:
    sizes = np.full(10, 5)
    batches = make_batches(sizes, np.arange(10), BatchLimits(10), pad=False)  # five batches of two
    plans = [list(plans_of_rank(batches, np.arange(5), 4, 4, rank, epoch=3)) for rank in range(4)]
    assert [[len(update) for update in rank] for rank in plans] == [[1, 1]] * 4
    last = [rank[1][0] for rank in plans]
    assert [plan.num_valid for plan in last] == [2, 0, 0, 0]
    assert [plan.micro for plan in last] == [0, 4, 5, 6]
    assert all(plan.num_samples == 5 and plan.epoch == 3 and plan.indices.tolist() == [8, 9] for plan in last)


def test_a_large_epoch_is_planned_quickly() -> None:
    import time

    rng = np.random.default_rng(2)
    sizes = np.minimum(rng.gamma(8, 24000, 281_241).astype(np.int64) + 20000, 250_000)
    began = time.process_time()
    order = np.lexsort((rng.permutation(len(sizes)), sizes))[::-1]
    batches = make_batches(sizes[order], order, BatchLimits(1_400_000, None, 8), pad=False)
    list(plans_of_rank(batches, rng.permutation(len(batches)), 64, 64, 5, 1))
    assert time.process_time() - began < 2  # 0.25 s on an idle core
