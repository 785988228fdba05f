"""Processes that wait for the slowest one."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.ranks import uneven_ranks
from tests.unit.doctor.causes.made_rows import made


def test_one_slow_rank_is_named() -> None:
    found = uneven_ranks(made(20, rank_wait=[30.0] * 12, slowest_rank=[3.0] * 12))
    assert found is not None and "Rank 3" in found.title and found.badness == 3
    assert (found.begin, found.end) == (21, 240) and "30 %" in found.evidence[0]


def test_ranks_in_turns() -> None:
    turns = np.arange(20.0) % 4
    assert uneven_ranks(made(20, rank_wait=[15.0] * 20, slowest_rank=turns)) is None
    found = uneven_ranks(made(20, rank_wait=[35.0] * 20, slowest_rank=turns))
    assert found is not None and "in turns" in found.title and "num_batch_buckets" in found.change


def test_even_ranks_and_single_processes() -> None:
    assert uneven_ranks(made(20, rank_wait=[4.0] * 20, slowest_rank=[1.0] * 20)) is None
    assert uneven_ranks(made(20, rank_wait=[60.0] * 3 + [4.0] * 20, slowest_rank=[1.0] * 23)) is None
    assert uneven_ranks(made(20, rank_wait=[60.0] * 20)) is None, "no rank"
    assert uneven_ranks(made(20, loss=[6.0] * 20)) is None
