"""Checksums of parameters, the slowest process, and the one that differs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq.distributed import utils as distributed
from fairseq.logging import metrics
from fairseq.training import between_ranks
from fairseq.training.between_ranks import BetweenRanks, RanksDiffer, checksums, disagreement, slowest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_any_flipped_bit_changes_the_checksum(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).t().to(dtype)  # not contiguous
    bits = 8 * tensor.element_size()
    before = checksums([tensor, torch.tensor(1.5)])
    integers = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    for bit in range(bits):
        flipped = tensor.clone()
        mask = torch.tensor(-(2**bit) if bit == bits - 1 else 2**bit, dtype=integers)
        flipped.view(integers)[1, 1] ^= mask
        after = checksums([flipped, torch.tensor(1.5)])
        assert after[0] != before[0] and after[1] == before[1]
    assert checksums([tensor], on_host=True) == before[:1] and checksums([]) == []


def test_the_slowest_makes_the_median_process_wait() -> None:
    assert slowest([6.0, 6.1, 9.0, 5.9], 10.0) == (2, pytest.approx(0.3))
    assert slowest([5.0, 9.0], 10.0) == (1, pytest.approx(0.4))


def test_the_first_process_and_parameter_that_differ_are_named() -> None:
    names = ["a.weight", "b.weight", "c.weight"]
    assert disagreement([[1, 2, 3]] * 3, names) is None
    assert disagreement([[1, 2, 3], [1, 2, 3], [1, 5, 4]], names) == (
        "rank 2 has other values of b.weight than most processes, and 1 more parameters"
    )
    two = disagreement([[1, 2, 3], [1, 2, 4]], names)
    assert two == "ranks 0, 1 have different values of c.weight, and none of them has a majority"


class Others:
    """The trainer of a process, and the numbers of two more processes: its own, and changed ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.change: dict[int, float] = {}  # of rank 2's numbers, by their position
        self.updates = 0
        self.exchanges: list[int] = []
        self.trainer: Any = SimpleNamespace(
            get_num_updates=lambda: self.updates,
            strategy=SimpleNamespace(holds_all=True),
            device=SimpleNamespace(graphs_are_static=False),
            compile_alarm=SimpleNamespace(visit=lambda kind: None),
            unwrapped_model=self.model,
            norms=[3.0, 2.0],
        )
        monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
        monkeypatch.setattr(distributed, "gather_on_host", self.gather)
        monkeypatch.setattr(distributed, "all_gather_list", lambda sums: [sums, sums, [sums[0] ^ 1, *sums[1:]]])

    def gather(self, numbers: list[float]) -> list[list[float]]:
        self.exchanges.append(len(numbers))
        own = [float(number) for number in numbers]
        return [own, own, [number + self.change.get(i, 0.0) for i, number in enumerate(own)]]


@pytest.fixture()
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(monkeypatch)


def test_parameters_are_compared_at_the_interval_and_before_a_save(
    others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(between_ranks, "checksums", lambda params, on_host: done.append(others.updates) or [1, 2])
    ranks = BetweenRanks(others.trainer, 100)
    for others.updates in (50, 99, 100, 150, 199, 220):
        ranks.compare()
    assert done == [100, 220]
    ranks.compare(now=True)  # the same update
    others.updates = 230
    ranks.compare(now=True)
    assert done == [100, 220, 230]
    others.trainer.strategy.holds_all = False  # shards are not comparable
    others.updates = 900
    ranks.compare(now=True)
    never = BetweenRanks(others.trainer, 0)
    others.updates = 9000
    never.compare(now=True)
    assert done == [100, 220, 230]


def test_a_parameter_that_differs_ends_the_run(others: Others) -> None:
    ranks = BetweenRanks(others.trainer, 10)
    others.updates = 10
    others.change = {3: 1.0}
    with pytest.raises(RanksDiffer, match=r"after update 10: rank 2 has other values of weight than most processes\."):
        ranks.compare()


@pytest.mark.parametrize("change", [{1: 0.1}, {0: -1}], ids=["another norm", "one of them not finite"])
def test_a_gradient_that_differs_ends_the_run(others: Others, change: dict[int, float]) -> None:
    ranks = BetweenRanks(others.trainer, 0)
    others.change = {1: 1e-5}  # another kind of card
    ranks.compare()
    others.change = change
    with pytest.raises(RanksDiffer, match="rank 2 has a gradient norm of"):
        ranks.compare()


@pytest.fixture()
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(between_ranks, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    yield clock


def test_a_slow_process_is_logged_once_and_again_when_it_gets_slower(
    others: Others, seconds: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = BetweenRanks(others.trainer, 0)

    def interval(late: float) -> dict[str, Any]:
        others.change = {0: late}
        seconds.now += 10.0
        with metrics.aggregate(new_root=True) as aggregator:
            ranks.report_slowest()
        return aggregator.get_smoothed_values()

    with caplog.at_level(logging.WARNING):
        assert interval(0.5) == {"slowest_rank": 2, "rank_wait": 5.0}
        interval(3.0)
        assert caplog.messages == []  # one slow interval may be anything
        interval(3.0)
        interval(3.1)
        assert len(caplog.messages) == 1 and caplog.messages[0].startswith("rank 2 is slow")
        assert "for 3.0 of the last 10.0 seconds" in caplog.messages[0] and "30 % of the time" in caplog.messages[0]
        interval(5.0)
        assert len(caplog.messages) == 2


def test_a_single_process_compares_nothing(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    ranks = BetweenRanks(others.trainer, 1)
    others.updates = 5
    ranks.report_slowest()
    ranks.compare(now=True)
    assert others.exchanges == []
