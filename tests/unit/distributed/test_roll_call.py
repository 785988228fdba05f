"""Who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from fairseq.distributed import roll_call
from fairseq.distributed.roll_call import RollCall, doing


@pytest.fixture()
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name in ("EVERY", "MISSING", "PATIENCE"):
        monkeypatch.setattr(roll_call, name, getattr(roll_call, name) / 100)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_stops_reporting_is_named(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    store = dist.HashStore()
    one, other = RollCall(store, 0, 2, 1800), RollCall(store, 1, 2, 1800)
    doing("computing")
    other._report(count=1)
    one.start()
    try:
        until(one.is_stuck)
        assert one.missing() == [1]
        until(lambda: bool(caplog.messages))
        assert (
            caplog.messages[0].startswith("no progress for")
            and "this process is computing; rank 1 (process " in caplog.messages[0]
        )
        assert (
            "has not reported for" in caplog.messages[0]
            and "distributed_training.distributed_timeout=1800 s" in caplog.messages[0]
        )
        other._report(count=2)
        until(lambda: one.missing() == [])
        assert not one.is_stuck()
    finally:
        one.close()


def test_a_process_that_waits_for_its_data_is_named(quick: None) -> None:
    store = dist.HashStore()
    one, other = RollCall(store, 0, 3, 60), RollCall(store, 1, 3, 60)
    doing("waiting for a batch")
    other._report(count=1)
    doing("computing")
    one._read()
    assert "rank 1 has been waiting for a batch for 0 seconds" in one.describe() and "rank 2" not in one.describe()
    doing("waiting for a batch")
    assert "all other processes report the same" in one.describe()


def test_a_store_that_hangs_means_its_holder(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    other = RollCall(dist.HashStore(), 1, 2, 60)
    monkeypatch.setattr(other, "_report", lambda count: time.sleep(3))
    other.start()
    try:
        until(lambda: other.missing() == [0])
        assert "rank 0 does not answer" in other.describe()
    finally:
        other.close()
