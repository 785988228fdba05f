"""What rows say about time, samples and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fairseq.device import Device
from fairseq.distributed import progress
from fairseq.logging import metrics
from fairseq.logging.sinks import NOT_ON_CONSOLE
from fairseq.training import host_memory, shares
from fairseq.training.host_memory import HostMemory, resident_gb


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    metrics.reset()
    yield
    metrics.reset()
    progress.start_over()


class Seconds:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_shares_of_time_are_weighted_by_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Seconds()
    loop = progress.Progress(clock)
    monkeypatch.setattr(progress, "_loop", loop)
    with metrics.aggregate("train_inner") as interval:
        for elapsed, phases in ((10.0, {"forward": 2.0, "data": 8.0}), (30.0, {"saving": 27.0, "backward": 3.0})):
            for phase, seconds in phases.items():
                loop.doing(phase)
                clock.now += seconds
            shares.log_times(elapsed)
    row = interval.get_smoothed_values()
    assert row == {**dict.fromkeys(shares.TIMES, 0.0), "time_forward": 5.0, "time_backward": 7.5, "time_save": 67.5}
    assert row.keys() <= NOT_ON_CONSOLE


def test_padding_and_masked_share() -> None:
    counted = {"audio_seconds": 3.0, "samples_sent": 64000.0, "num_masked": 66.0, "num_frames": 150.0}
    with metrics.aggregate("a") as logged:
        shares.log_contents(counted, 16000)
    assert logged.get_smoothed_values() == {"padding": 25.0, "masked_share": 44.0}
    with metrics.aggregate("b") as logged:  # without masks; and from a checkpoint that lacks the counts
        shares.log_contents({**counted, "num_frames": 0.0}, 16000)
        shares.log_contents({"audio_seconds": 3.0}, 16000)
    assert logged.get_smoothed_values() == {"padding": 25.0}


class Card(Device):
    """A device that counts and has memory of its own."""

    def memory_statistics(self) -> dict[str, float]:
        return {"gb_free": 60.0, "gb_peak": 20.5}

    def counters(self) -> dict[str, float]:
        return {"hpu_graph_compilations": 12, "hpu_cpu_fallbacks": 3, "hpu_compile_seconds": 4.5}


def test_memory_and_counts_of_the_device() -> None:
    with metrics.aggregate("a") as logged:
        assert shares.log_machine(Card(), HostMemory()) == Card().counters()
    row = logged.get_smoothed_values()
    assert (row["device_gb"], row["graphs"], row["cpu_fallbacks"]) == (20.5, 12, 3)
    assert row["gb_peak"] == 20.5 and row["hpu_graph_compilations"] == 12  # under their own names too
    with metrics.aggregate("b") as logged:
        assert shares.log_machine(Device(), HostMemory()) == {}
    assert logged.get_smoothed_values().keys() <= {"host_gb"}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux reports it")
def test_host_memory_grows_with_what_is_held_and_is_measured_seldom() -> None:
    clock = Seconds()
    memory = HostMemory(clock)
    before = memory.gb()
    held = bytearray(os.urandom(1024)) * 200_000  # 0.19 GB
    assert before is not None and memory.gb() == before
    clock.now = host_memory.EVERY
    after = memory.gb()
    assert after is not None and 0.15 < after - before < 0.3 and len(held) > 0


def test_processes_that_have_ended_count_nothing() -> None:
    assert resident_gb([]) is None and resident_gb([2**22 + 1]) is None
