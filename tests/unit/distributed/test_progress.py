"""Steps of the main loop, how long they may take, and what is seen of them from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from fairseq.distributed import progress
from fairseq.distributed.progress import FIRST, Patience, Progress, look_at


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def after(steps: list[tuple[str, str, float]]) -> Progress:
    """The main loop after steps of this phase, kind and duration."""
    clock = Clock()
    loop = Progress(clock)
    for phase, kind, seconds in steps:
        loop.doing(phase, kind=kind)
        clock.seconds += seconds
    return loop


def test_a_step_may_take_a_minute_or_ten_times_the_slowest_of_its_phase() -> None:
    quick, slow = [("forward", "a", 0.5)] * 4, [("forward", "a", 9.0)]
    assert after(quick).patience(-1) == Patience(45.0, 60.0)
    assert after([*quick, *slow, ("forward", "a", 0)]).patience(-1) == Patience(67.5, 90.0)
    assert after([*quick, *slow, ("data", "a", 0)]).patience(-1).notice == 45.0  # slow was another phase
    assert after(quick).patience(8) == Patience(6.0, 8.0)
    assert after(quick).patience(0).limit == float("inf")


def test_first_visits_may_compile_and_do_not_count_as_slow() -> None:
    compiled = [("forward", "a", 600.0), ("forward", "a", 300.0), ("forward", "a", 1.0)]
    assert after(compiled[:1]).patience(-1) == Patience(45.0, FIRST) == after(compiled[:2]).patience(-1)
    assert after([*compiled, compiled[-1]]).patience(-1) == Patience(45.0, 60.0)
    assert after([*compiled, ("forward", "b", 0)]).patience(8) == Patience(6.0, FIRST)
    assert after([*compiled, ("forward", "b", 0)]).is_first_visit()
    assert after([("starting", "a", 1.0)] * 5).patience(8).limit == FIRST  # each of these steps is another one


def test_places_are_ordered_and_named() -> None:
    loop = Progress(Clock())
    places = []
    for update in (0, 1):
        loop.begin_update(update)
        for phase in ("forward", "backward", "saving"):
            loop.doing(phase, "micro-batch 1 of 1" if phase == "forward" else "")
            places.append(loop.step.place)
            loop.alive()  # not a new place
    assert places == sorted(set(places)) and loop.beats == 12
    assert loop.step.describe() == "saving after update 1"
    loop.doing("forward", "micro-batch 1 of 1")
    assert loop.step.describe() == "forward of update 2 (micro-batch 1 of 1)"


def test_busy_time_is_without_waits_for_other_processes() -> None:
    clock = Clock()
    loop = Progress(clock)
    for phase, waits in (
        ("data", False),
        ("forward", False),
        ("backward", True),
        ("exchange", True),
        ("saving", False),
    ):
        loop.doing(phase, waits=waits)
        clock.seconds += 2
        loop.alive()
        clock.seconds += 1
    loop.doing("data")
    assert loop.busy() == 6.0 and loop.busy() == 0.0


def test_time_is_spent_by_phase_or_by_the_part_that_a_step_is_within() -> None:
    clock = Clock()
    loop = Progress(clock)

    def takes(phase: str, seconds: float) -> None:
        loop.doing(phase)
        clock.seconds += seconds

    loop.doing("data")
    loop.spent()
    takes("forward", 1.0)
    takes("backward", 2.0)
    with loop.within("validation"):
        clock.seconds += 0.5
        takes("data", 4.0)  # of the validation
        takes("exchange", 8.0)
    clock.seconds += 16.0
    takes("forward", 32.0)
    assert loop.spent() == {"data": 0.0, "forward": 33.0, "backward": 2.0, "validation": 12.5, "exchange": 16.0}
    clock.seconds += 1.0  # the step in progress counts too
    assert loop.spent() == {"forward": 1.0} and loop.spent() == {"forward": 0.0}
    assert loop.busy() == 1.0 + 2.5 + 4.0 + 32.0 + 1.0  # by phase: data, forward and backward


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.process
def test_a_stopped_process_is_seen_from_outside() -> None:
    program = (
        "from fairseq.distributed import progress; import time\n"
        "progress.start_over(); progress.begin_update(4)\n"
        "progress.doing('data', 'batch 2'); progress.reading('/a/ä.flac'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        shown = look_at(child.pid)
        assert shown is not None and shown.step is not None
        assert shown.state == "T (stopped)" and shown.file == "/a/ä.flac"
        assert shown.step.place == (4, 1) and shown.step.describe() == "data of update 5 (batch 2)"
        assert shown.patience == Patience(45.0, FIRST)
    finally:
        child.kill()
        child.wait()
    assert look_at(child.pid) is None


def test_a_beat_costs_microseconds() -> None:
    loop = progress.start_over()
    began = time.process_time()
    for _ in range(1000):
        loop.doing("forward", "micro-batch 1 of 1", "kind")
    assert (time.process_time() - began) / 1000 < 100e-6  # an update has about ten
