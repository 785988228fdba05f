"""Reports of what each process does, exchanged through a store."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from fairseq.distributed import progress, roll_call
from fairseq.distributed.roll_call import Report, RollCall, own_report, waits_for


@pytest.fixture()
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name in ("EVERY", "MISSING"):
        monkeypatch.setattr(roll_call, name, getattr(roll_call, name) / 100)


@pytest.fixture(autouse=True)
def loop() -> progress.Progress:
    return progress.start_over()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reports_of(rank: int, still: float = 100.0) -> Callable[[int], Report]:
    return lambda count: own_report(rank, rank, count, still, -1)


def test_a_process_that_stops_reporting_is_missing_until_it_reports(quick: None) -> None:
    store = dist.HashStore()
    one, other = RollCall(store, 0, 2, reports_of(0)), RollCall(store, 1, 2, reports_of(1))
    other.exchange(count=1)
    one.start()
    try:
        until(lambda: one.missing() == [1])
        assert one.heard()[0].report.still > 100.0  # its own seconds and those without a report
        other.exchange(count=2)
        until(lambda: one.missing() == [])
    finally:
        one.close()


def test_reports_arrive_whole_and_with_the_stack(loop: progress.Progress) -> None:
    store = dist.HashStore()
    one, other = RollCall(store, 0, 3, reports_of(0)), RollCall(store, 1, 3, reports_of(1))
    loop.begin_update(7)
    loop.doing("forward", "micro-batch 1 of 2", kind=("a", 1))
    other.exchange(1)
    one.exchange(1)
    (heard,) = one.heard()
    assert heard.report.step.describe() == "forward of update 8 (micro-batch 1 of 2)"
    assert heard.report.who().startswith("rank 1 (local rank 1, process ") and heard.report.limit == progress.FIRST
    assert any("test_reports_arrive_whole" in line for line in one.stack(1)) and one.stack(2) == []


def test_a_process_that_makes_progress_reads_only_rank_0() -> None:
    store = dist.HashStore()
    for rank in (0, 1):
        RollCall(store, rank, 3, reports_of(rank)).exchange(1)
    third = RollCall(store, 2, 3, reports_of(2, still=0.0))
    third.exchange(1)
    assert [heard.report.rank for heard in third.heard()] == [0]  # its last step, if it serves the store and stops


def test_a_verdict_reaches_the_processes_of_this_attempt() -> None:
    store = dist.HashStore()
    one, other = (RollCall(store, rank, 2, reports_of(rank)) for rank in (0, 1))
    later = RollCall(dist.PrefixStore("restarted", store), 1, 2, reports_of(1))
    one.pass_verdict("rank 1 hangs")
    for each in (other, later):
        each.exchange(1)
    assert (other.verdict, later.verdict) == ("rank 1 hangs", "")


def test_a_store_that_hangs_means_its_holder(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    other = RollCall(dist.HashStore(), 1, 2, reports_of(1))
    monkeypatch.setattr(other, "exchange", lambda count: time.sleep(3))
    other.start()
    try:
        until(lambda: other.missing() == [0])
    finally:
        other.close()


def test_what_a_process_waits_for_is_named(loop: progress.Progress) -> None:
    loop.doing("data")
    assert waits_for(loop.step, "", "", None) == ""
    assert waits_for(loop.step, "/a.flac", "/m/train.tsv", None) == "it reads /a.flac of /m/train.tsv"
    assert waits_for(loop.step, "", "", 2**22 + 1) == f"it waits for data-loading worker {2**22 + 1}, which has ended"
    loop.doing("forward")
    assert waits_for(loop.step, "/a.flac", "", None) == ""
