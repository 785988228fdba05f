"""Name the process that keeps a run waiting, and end the run.

Each process has a watchdog: a thread that looks every second whether the main loop has made progress. If not, it reads
what the other processes do, and finds those that are behind. The lowest rank that still answers writes the log.

A late process is named early, after three quarters of its limit; at the limit, all processes exit with HUNG.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence

import torch.distributed as dist

from fairseq.distributed import progress, signals
from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.roll_call import EVERY, MISSING, Report, RollCall, main_stack, own_report

logger = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks
GRACE = 5.0  # seconds for the main thread to end by itself, and for other processes to read the verdict


class Stalled(signals.WaitEnded):
    """No batch arrived within the watchdog's limit; the run saves what it can, and ends with HUNG."""

    def __init__(self, why: str) -> None:
        super().__init__(HUNG)
        self.why = why

    def __str__(self) -> str:
        return self.why


class AwakeClock:
    """Seconds in which this process was running: one that was suspended must not take the pause for a hang."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds, self._at = 0.0, clock()

    def tick(self) -> None:
        """Count the seconds since the last tick, but at most two ticks."""
        now = self._clock()
        self._seconds += min(now - self._at, 2 * TICK)
        self._at = now

    def __call__(self) -> float:
        return self._seconds


def keep_waiting(reports: Sequence[Report], missing: Collection[int]) -> list[Report]:
    """Return the processes that the others wait for: those that do not answer, else those at the earliest place.

    A process that waits in an exchange is at a later place than the one that has not arrived there.
    """
    silent = [report for report in reports if report.rank in missing]
    if silent:
        return silent
    earliest = min(report.step.place for report in reports)
    return [report for report in reports if report.step.place == earliest]


def describe(late: Sequence[Report], missing: Collection[int], world_size: int, here: str) -> str:
    """Say in one line who is late and what it is doing.

    Args:
        here: this machine's name; processes on it are looked at from outside.
    """
    if world_size > 1 and len(late) == world_size:
        still = min(report.still for report in late)
        of_first = f", and {late[0].waits_for} (rank {late[0].rank})" if late[0].waits_for else ""
        reason = " The network between them or a device hangs." if late[0].step.waits else ""
        return (
            f"no process has made progress for {still:.0f} seconds: all are in {late[0].step.describe()}{of_first}."
            f"{reason}"
        )
    sentences = [_one(report, report.rank in missing, world_size, here) for report in late[:8]]
    if len(late) > 8:
        sentences.append(f"{len(late) - 8} more processes are as late")
    return "; ".join(sentences) + (". The other processes wait for it." if world_size > 1 else ".")


def _one(report: Report, is_silent: bool, world_size: int, here: str) -> str:
    who = report.who() if world_size > 1 else f"process {report.pid} on {report.host}"
    shown = progress.look_at(report.pid) if report.host == here and report.pid else None
    step = shown.step if shown is not None and shown.step is not None else report.step
    is_current = step.place == report.step.place  # else it stopped in a later step than it reported
    waits_for = f", {report.waits_for}" if report.waits_for and is_current else ""
    if not is_silent:
        return f"{who} has made no progress for {report.still:.0f} seconds: {step.describe()}{waits_for}"
    if report.host == here and report.pid:
        state = f"its state is {shown.state}" if shown is not None else "it has ended"
    else:
        state = "it is stopped, or its machine is gone"
    return f"{who} has not answered for {report.still:.0f} seconds: {state}; {step.describe()}{waits_for}"


def _is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped, as by SIGSTOP or a debugger."""
    shown = progress.look_at(pid)
    return shown is not None and shown.state[:1] in ("T", "t")


def _up_to_date(report: Report, missing: Collection[int], here: str) -> Report:
    """Return a report with what the process's board shows, if it is silent: its last report can be of an older step."""
    if report.rank not in missing or report.host != here or not report.pid:
        return report
    shown = progress.look_at(report.pid)
    if shown is None or shown.step is None or shown.patience is None:
        return report
    return report._replace(step=shown.step, notice=shown.patience.notice, limit=shown.patience.limit)


class Watchdog:
    """Watch the main loop of this process, and with a store those of the others.

    Args:
        timeout: distributed_training.heartbeat_timeout; see `Progress.patience`. With 0 late processes are named, but
            the run does not end.
        store: shared by all processes; None: this is the only one.
        leave: ends this process with an exit status, from any thread.
    """

    def __init__(
        self,
        timeout: float,
        rank: int = 0,
        local_rank: int = 0,
        world_size: int = 1,
        store: dist.Store | None = None,
        clock: AwakeClock | None = None,
        leave: Callable[[int], None] | None = None,
    ) -> None:
        self._timeout, self._rank, self._local_rank, self._world_size = timeout, rank, local_rank, world_size
        self._clock = clock or AwakeClock()
        self._leave = leave or _leave
        self.roll_call: RollCall | None = None
        if store is not None:
            self.roll_call = RollCall(store, rank, world_size, self._own, self._clock)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        progress.of_this_process().timeout = timeout
        self._beats, self._beat_at = 0, self._clock()
        self._noticed: tuple[int, ...] = ()  # ranks that were named, and the place at which they were
        self._leaves_at: float | None = None
        self._last_beat = 0  # when the verdict came

    def start(self) -> None:
        self._thread.start()
        if self.roll_call is not None:
            self.roll_call.start()

    def close(self) -> None:
        """Stop watching; waits at most a second for each thread."""
        self._closing.set()
        if self.roll_call is not None:
            self.roll_call.close()
        self._thread.join(1.0)

    def still(self) -> float:
        """Return the seconds since the main loop's last beat that this watchdog saw."""
        beats = progress.of_this_process().beats
        if beats != self._beats:
            self._beats, self._beat_at = beats, self._clock()
        return self._clock() - self._beat_at

    def is_stuck(self) -> bool:
        """Whether this process makes no progress and another one does not answer."""
        return self.still() > MISSING and self.roll_call is not None and bool(self.roll_call.missing())

    def culprits(self) -> tuple[list[Report], list[int]]:
        """Return the processes that keep the run waiting, and the ranks that do not answer."""
        own = self._own(0)
        if self.roll_call is None or self.roll_call.has_ended:
            return [own], []
        missing = self.roll_call.missing()
        reports = [own, *(_up_to_date(heard.report, missing, own.host) for heard in self.roll_call.heard())]
        local = [report for report in reports[1:] if report.host == own.host and report.rank not in missing]
        missing = sorted([*missing, *(report.rank for report in local if _is_stopped(report.pid))])
        if missing == [0] and all(report.rank for report in reports):  # it has never answered
            reports.append(own._replace(rank=0, pid=0, host="an unknown machine", waits_for=""))
        return keep_waiting(reports, missing), missing

    def explain(self) -> str:
        """Say in one line which processes keep the run waiting."""
        late, missing = self.culprits()
        return describe(late, missing, self._world_size, self._own(0).host)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.wait(TICK):
            self.look()

    def look(self) -> None:
        """Look once: name late processes, and end this process if the run must end."""
        self._clock.tick()
        still = self.still()
        if self._leaves_at is not None:
            is_ending = self._beats != self._last_beat  # the main thread; it may be saving
            if self._clock() >= self._leaves_at and still >= (progress.FLOOR if is_ending else GRACE):
                self._leave(HUNG)
            return
        if self.roll_call is not None and self.roll_call.verdict:
            self._end(self.roll_call.verdict)
        elif still > EVERY and progress.of_this_process().has_begun():
            self._judge()

    def _judge(self) -> None:
        late, missing = self.culprits()
        still = max(r.still for r in late) if missing else min(r.still for r in late)
        first = late[0]
        speaks = self._rank == min({*range(self._world_size)} - {*missing}, default=self._rank)
        if still <= min(first.notice, first.limit):
            return
        text = describe(late, missing, self._world_size, self._own(0).host)
        if still > first.limit:
            if speaks:
                logger.error("%s The run ends with status %d.\n%s", text, HUNG, self._stack(first, missing))
                if self.roll_call is not None:
                    self.roll_call.pass_verdict(text)
            self._end(text)
        elif speaks:
            named = (*first.step.place, *(report.rank for report in late))
            if named != self._noticed:
                self._noticed = named
                logger.warning("%s%s\n%s", text, self._outlook(first), self._stack(first, missing))

    def _stack(self, late: Report, missing: list[int]) -> str:
        """Return the Python stack of a process, one frame per line."""
        own = late.rank == self._rank or self.roll_call is None
        lines = main_stack() if own else self.roll_call.stack(late.rank)  # type: ignore[union-attr]
        when = "last reported Python stack" if late.rank in missing else "Python stack"
        return "\n".join([f"{when} of process {late.pid}:", *(f"  {line}" for line in lines)])

    def _outlook(self, late: Report) -> str:
        if self._timeout == 0:
            return " The run waits (distributed_training.heartbeat_timeout=0)."
        first = " (a first visit, which may compile graphs)" if late.limit >= progress.FIRST else ""
        return f" The run ends after {late.limit:.0f} seconds without progress{first}."

    def _end(self, why: str) -> None:
        """Let the main thread end this process, or do so after GRACE."""
        progress.of_this_process().stalled = why
        self._leaves_at, self._last_beat = self._clock() + GRACE, self._beats

    def _own(self, count: int) -> Report:
        return own_report(self._rank, self._local_rank, count, self.still(), self._timeout)


def check_wait() -> None:
    """End a wait for data that took too long; call it once per second while waiting.

    Raises:
        Stalled: the watchdog's limit has passed.
    """
    why = progress.of_this_process().stalled
    if why:
        raise Stalled(why)


def _leave(status: int) -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    os._exit(status)
