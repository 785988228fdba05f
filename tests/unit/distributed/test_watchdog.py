"""Which process keeps the others waiting, when the log names it, and how the run ends. Clocks and stores are fakes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from fairseq.distributed import progress, watchdog
from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.progress import Step
from fairseq.distributed.roll_call import Heard, Report
from fairseq.distributed.watchdog import GRACE, AwakeClock, Stalled, Watchdog, describe, keep_waiting

HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def own_steps() -> Iterator[None]:
    yield
    progress.start_over()


def report(rank: int, phase: str, place: tuple[int, int] = (11, 3), still: float = 70.0, **more: object) -> Report:
    step = Step(phase, "", None, phase == "exchange", *place)
    given = Report(rank, 1, "far", rank % 8, 1000 + rank, step, still, 45.0, 60.0, "")
    return given._replace(**more)  # type: ignore[arg-type]


def ranks(reports: list[Report]) -> list[int]:
    return [each.rank for each in reports]


class Time:
    """time.monotonic, advanced by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watchdog of rank 0 whose seconds, other reports and end are the test's."""

    def __init__(self, timeout: float = -1, others: tuple[Report, ...] = (), missing: tuple[int, ...] = ()) -> None:
        self.time, self.left = Time(), []
        self.loop = progress.start_over()
        world = 1 + len(others)
        store = dist.HashStore() if others else None
        self.dog = Watchdog(timeout, 0, 0, world, store, AwakeClock(self.time), self.left.append)
        if self.dog.roll_call is not None:
            self.dog.roll_call.heard = lambda: [Heard(each, 0.0) for each in others]  # type: ignore[method-assign]
            self.dog.roll_call.missing = lambda: list(missing)  # type: ignore[method-assign]

    def steps(self, phase: str, number: int = 4) -> None:
        for _ in range(number):
            self.loop.doing(phase)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time.now += 1.0
            self.dog.look()


# -- who is late -------------------------------------------------------------------------------------------------------


def test_a_process_in_an_exchange_waits_for_the_one_that_has_not_arrived() -> None:
    waits, late, waits_too = report(0, "exchange", (11, 5)), report(1, "data", (11, 1)), report(2, "exchange", (11, 5))
    assert ranks(keep_waiting([waits, late, waits_too], [])) == [1]
    before = report(3, "backward", (10, 9))
    assert ranks(keep_waiting([waits, late, before], [])) == [3]


def test_processes_that_do_not_answer_come_first() -> None:
    reports = [report(0, "exchange"), report(1, "data", (11, 1)), report(2, "exchange")]
    assert ranks(keep_waiting(reports, [2])) == [2]


def test_the_line_has_rank_host_process_phase_and_what_it_waits_for() -> None:
    late = report(9, "data", waits_for="it waits for data-loading worker 7, state T (stopped)")
    assert describe([late], [], 16, HERE) == (
        "rank 9 (local rank 1, process 1009 on far) has made no progress for 70 seconds: data of update 12, it waits "
        "for data-loading worker 7, state T (stopped). The other processes wait for it."
    )
    assert describe([late._replace(waits_for="")], [9], 16, HERE) == (
        "rank 9 (local rank 1, process 1009 on far) has not answered for 70 seconds: it is stopped, or its machine is "
        "gone; data of update 12. The other processes wait for it."
    )
    all_wait = [report(0, "exchange"), report(1, "exchange")]
    assert describe(all_wait, [], 2, HERE) == (
        "no process has made progress for 70 seconds: all are in exchange of update 12. The network between them or a "
        "device hangs."
    )


def test_a_process_of_this_machine_is_seen_from_outside() -> None:
    progress.start_over().doing("optimizer")
    here = report(1, "forward", host=HERE, pid=os.getpid())
    line = describe([here], [1], 2, HERE)
    assert "its state is R (running); optimizer" in line or "its state is S (sleeping); optimizer" in line


# -- a single process --------------------------------------------------------------------------------------------------


def test_a_late_step_is_named_once_and_then_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.steps("forward")
    watched.wait(44)
    assert caplog.messages == []
    watched.wait(10)
    (line,) = caplog.messages
    assert "has made no progress for 45 seconds" not in line and "has made no progress for 46 seconds: forward" in line
    assert "ends after 60 seconds without progress." in line and "test_a_late_step_is_named_once" in line
    watched.wait(10)
    assert len(caplog.messages) == 2 and f"The run ends with status {HUNG}.\nPython stack" in caplog.messages[1]
    assert watched.left == []
    watched.wait(int(GRACE))
    assert watched.left[0] == HUNG and len(caplog.messages) == 2


def test_a_beat_of_the_main_loop_ends_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.steps("forward")
    for _ in range(10):
        watched.wait(40)
        watched.loop.alive()
    assert caplog.messages == [] and watched.left == []


def test_a_first_visit_is_named_but_may_take_half_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.steps("forward", 1)
    watched.wait(1790)
    assert len(caplog.messages) == 1 and "(a first visit, which may compile graphs)" in caplog.messages[0]
    watched.wait(20)
    assert watched.loop.stalled


def test_the_timeout_is_the_configs_and_0_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(timeout=8)
    watched.steps("forward")
    watched.wait(11)
    assert watched.loop.stalled
    watched = Watched(timeout=0)
    watched.steps("forward")
    watched.wait(10000)
    assert not watched.loop.stalled and "heartbeat_timeout=0" in caplog.messages[-1]


def test_a_suspended_process_does_not_take_the_pause_for_a_hang(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.steps("forward")
    watched.wait(5)
    watched.time.now += 3600  # SIGSTOP, then SIGCONT
    watched.wait(5)
    assert caplog.messages == [] and not watched.loop.stalled


def test_a_program_without_steps_is_not_watched(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.loop.reading("/a.flac")
    watched.wait(4000)
    assert caplog.messages == []


def test_a_main_thread_that_ends_by_itself_may_save() -> None:
    watched = Watched()
    watched.steps("data")
    watched.wait(63)
    with pytest.raises(Stalled, match="has made no progress for 61 seconds: data"):
        watchdog.check_wait()
    watched.wait(3)
    watched.loop.doing("saving")
    watched.wait(59)
    assert watched.left == []
    watched.wait(5)
    assert watched.left[0] == HUNG


# -- several processes -------------------------------------------------------------------------------------------------


def test_the_limit_is_that_of_the_process_that_is_late(caplog: pytest.LogCaptureFixture) -> None:
    """Rank 0 waits in an exchange for longer than its own limit; rank 1 compiles, which may take half an hour."""
    compiles = report(1, "forward", (0, 1), still=100.0, notice=45.0, limit=1800.0)
    watched = Watched(others=(compiles,))
    watched.loop.begin_update(0)
    watched.steps("exchange")
    watched.wait(200)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("rank 1 (") and not watched.loop.stalled


def test_the_limit_of_a_stopped_process_is_that_of_its_step_and_not_of_its_last_report(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = progress.Shown("T (stopped)", Step("backward", "", None, True, 5, 3), "", progress.Patience(45.0, 60.0))
    monkeypatch.setattr(progress, "look_at", {1001: seen}.get)
    reported = report(1, "starting", (-1, 2), host=HERE, notice=45.0, limit=1800.0)
    watched = Watched(others=(reported,), missing=(1,))
    watched.loop.begin_update(5)
    watched.steps("exchange")
    watched.wait(7)
    assert "backward of update 6" in caplog.messages[0] and "The run ends with status 69" in caplog.messages[0]


def test_the_process_that_does_not_arrive_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(others=(report(1, "data", (0, 1)), report(2, "exchange", (0, 9))))
    watched.loop.begin_update(0)
    watched.steps("exchange", 6)
    watched.wait(5)
    (line,) = caplog.messages
    assert line.startswith("rank 1 (local rank 1, process 1001 on far) has made no progress for 70 seconds: data of")
    assert watched.dog.roll_call is not None
    watched.dog.roll_call.exchange(1)  # the verdict is there for the others
    assert watched.dog.roll_call.verdict.startswith("rank 1 (")


def test_only_the_lowest_rank_that_answers_speaks(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(others=(report(1, "data", (0, 1)),))
    watched.dog._rank = 1
    watched.steps("exchange", 6)
    watched.dog._own = lambda count: report(1, "data", (0, 1))  # type: ignore[method-assign]
    watched.wait(5)
    assert caplog.messages == [] and watched.loop.stalled


def test_another_processs_verdict_ends_this_one(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(others=(report(1, "exchange"),))
    watched.steps("exchange")
    assert watched.dog.roll_call is not None
    watched.dog.roll_call.verdict = "rank 3 hangs"
    watched.wait(15)
    assert watched.left[0] == HUNG and caplog.messages == [] and watched.loop.stalled == "rank 3 hangs"


@pytest.mark.process
def test_a_stopped_process_of_this_machine_is_late_though_it_reported_just_now(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = subprocess.Popen(["sleep", "60"])
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    try:
        place = (0, 4)
        stopped = report(1, "exchange", place, host=HERE, pid=child.pid)
        watched = Watched(timeout=8, others=(stopped,))
        watched.loop.begin_update(0)
        watched.steps("exchange")
        watched.wait(5)
        assert watched.loop.step.place == place
        assert caplog.messages[0].startswith(f"rank 1 (local rank 1, process {child.pid} on {HERE}) has not answered")
        assert "its state is T (stopped); exchange of update 1. The other" in caplog.messages[0]
    finally:
        child.kill()
        child.wait()


def test_rank_0_that_never_answered_is_named(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(others=(report(2, "exchange"),), missing=(0,))
    watched.dog._rank = 1
    watched.steps("exchange")
    watched.wait(62)
    assert caplog.messages[-1].startswith("rank 0 (") and "has not answered" in caplog.messages[-1]
