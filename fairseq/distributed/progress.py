"""What the main loop of this process is doing, and how long its steps take.

A beat is a call of the main loop: it starts a step, or continues one. A thread's liveness is not a beat. The current
step is also written to a board: memory that other processes of this machine can read through /proc, even while this
process is stopped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

FLOOR = 60.0  # seconds that a step may take at least
FACTOR = 10  # a step may take this many times the slowest completed one of its phase
FIRST = 1800.0  # seconds for a step that may compile graphs or connect to other machines
SETTLED = 2  # visits after which a kind of step compiles nothing: see training.compile_alarm
EARLY = 0.75  # share of the limit after which the log names a late process
_BUSY = ("data", "computing", "forward", "backward", "optimizer")  # phases that do not depend on other processes
_ONCE = ("starting", "ending")  # phases whose steps do not repeat
_IN_UPDATE = (*_BUSY, "exchange")
_BOARD_BYTES = 2048


class Patience(NamedTuple):
    """Seconds without a beat after which the log names this process, and after which the run ends."""

    notice: float
    limit: float


class Step(NamedTuple):
    """A step of the main loop."""

    # starting, data, computing, forward, backward, exchange, optimizer, validation, saving, ending
    phase: str
    detail: str
    kind: Hashable  # steps of one phase and kind run the same graphs
    waits: bool  # for other processes, at least in part
    update: int  # completed updates; -1: before the first one
    number: int  # of this step within the update; the same on all processes

    @property
    def place(self) -> tuple[int, int]:
        """Order of this step in the run: a process at an earlier place keeps the others waiting."""
        return self.update, self.number

    def describe(self) -> str:
        where = self.phase
        if self.update >= 0:
            where += f" of update {self.update + 1}" if self.phase in _IN_UPDATE else f" after update {self.update}"
        return f"{where} ({self.detail})" if self.detail else where


_BEFORE = Step("starting", "", None, False, -1, 0)


class Progress:
    """The steps of one main loop.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.step = _BEFORE
        self.beats = 0
        self.source = ""  # the manifest whose audio is being read
        self.worker: int | None = None  # the data-loading worker whose batch the main thread waits for
        self.stalled = ""  # why the watchdog ends the run
        self.timeout = -1.0  # the watchdog's; see `patience`
        self.file = ""  # the audio file that this process reads, or read last in this step
        self._since = clock()
        self._visits: Counter[tuple[str, Hashable]] = Counter()
        self._slowest: dict[str, float] = {}
        self._busy = 0.0
        self._spent: dict[str, float] = {}
        self._part: str | None = None

    def doing(self, phase: str, detail: str = "", kind: Hashable = None, waits: bool = False) -> None:
        """Begin a step, and complete the one before.

        Args:
            kind: what decides the graphs that a device compiles for this step, such as the batch's shape.
            waits: the step also waits for other processes, so it does not count as `busy` time.
        """
        self._complete()
        before = self.step
        self.step = Step(phase, detail, kind, waits, before.update, before.number + 1)
        self.file = ""
        self._show()

    def begin_update(self, update: int) -> None:
        """Set the number of completed updates, for the following steps."""
        if update != self.step.update:
            self.step = self.step._replace(update=update, number=0)

    def alive(self) -> None:
        """Continue the current step: it made progress."""
        self._beat()

    def reading(self, file: str) -> None:
        """Record the file that is read from now on."""
        self.file = file
        self.alive()
        self._show()

    def has_begun(self) -> bool:
        """Whether any step has begun; a program that calls `doing` nowhere cannot be late."""
        return self.step.place != _BEFORE.place

    def busy(self) -> float:
        """Return the seconds since the last call in phases that do not depend on other processes."""
        busy, self._busy = self._busy, 0.0
        return busy

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count the time of all steps inside for one part of the run, whatever their phases are; see `spent`."""
        self._beat()
        outer, self._part = self._part, part
        try:
            yield
        finally:
            self._beat()
            self._part = outer

    def spent(self) -> dict[str, float]:
        """Return the seconds since the last call by phase, or by the part that a step was `within`."""
        self._beat()
        spent, self._spent = self._spent, {}
        return spent

    def patience(self, timeout: float) -> Patience:
        """Return how long the current step may take.

        Args:
            timeout: distributed_training.heartbeat_timeout. -1: a minute, or FACTOR times the slowest completed step of
                this phase; 0: no limit.
        """
        step = self.step
        usual = timeout if timeout > 0 else max(FLOOR, FACTOR * self._slowest.get(step.phase, 0.0))
        if timeout == 0:
            return Patience(EARLY * usual, float("inf"))
        return Patience(EARLY * usual, max(usual, FIRST) if self.is_first_visit() else usual)

    def is_first_visit(self) -> bool:
        """Whether the current step may compile graphs or read much, so that its limit is FIRST."""
        return self.step.phase in _ONCE or self._visits[self.step.phase, self.step.kind] < SETTLED

    def _complete(self) -> None:
        took, step = self._beat(), self.step
        visit = step.phase, step.kind
        if self._visits[visit] >= SETTLED:
            self._slowest[step.phase] = max(took, self._slowest.get(step.phase, 0.0))
        self._visits[visit] += 1

    def _beat(self) -> float:
        """Return the seconds since the last beat."""
        now = self._clock()
        took, self._since = now - self._since, now
        self.beats += 1
        part = self._part or self.step.phase
        self._spent[part] = self._spent.get(part, 0.0) + took
        if self.step.phase in _BUSY and not self.step.waits:
            self._busy += took
        return took

    def _show(self) -> None:
        if _board is not None:
            numbers = map(str, (*self.step.place, *self.patience(self.timeout)))
            text = "\n".join((*numbers, self.step.phase, self.step.detail, self.file))
            written = text.encode(errors="replace")[: _BOARD_BYTES - 1] + b"\0"
            _board[: len(written)] = written


# -- the board: what other processes of this machine can read ----------------------------------------------------------


class Shown(NamedTuple):
    """What a process of this machine is doing, read from outside."""

    state: str  # of the process, as in /proc/PID/status: "T (stopped)"
    step: Step | None  # None: it has no board
    file: str = ""
    patience: Patience | None = None


_board: mmap.mmap | None = None
_descriptor: int | None = None


def _board_name(pid: int) -> str:
    return f"steps_of_{pid}"


def open_board() -> None:
    """Show the steps of this process to other processes of this machine (Linux only); call it again after a fork."""
    global _board, _descriptor
    if _descriptor is not None:  # of an earlier run, or the parent's
        os.close(_descriptor)
    _board = _descriptor = None
    with contextlib.suppress(AttributeError, OSError):
        _descriptor = os.memfd_create(_board_name(os.getpid()))
        os.ftruncate(_descriptor, _BOARD_BYTES)
        _board = mmap.mmap(_descriptor, _BOARD_BYTES)


def look_at(pid: int) -> Shown | None:
    """Read from outside what a process of this machine is doing; None if it has ended, or without /proc."""
    folder = Path("/proc") / str(pid)
    try:
        status = (folder / "status").read_text(errors="replace")
        state = next(line.partition(":")[2].strip() for line in status.splitlines() if line.startswith("State:"))
    except (OSError, StopIteration):
        return None
    with contextlib.suppress(OSError, ValueError):
        for entry in (folder / "fd").iterdir():
            if _board_name(pid) in os.readlink(entry):
                with open(entry, "rb") as board:
                    return Shown(state, *_parse(board.read(_BOARD_BYTES)))
    return Shown(state, None)


def _parse(shown: bytes) -> tuple[Step | None, str, Patience | None]:
    parts = shown.partition(b"\0")[0].decode(errors="replace").split("\n")
    if len(parts) != 7:
        return None, "", None
    update, number, notice, limit, phase, detail, file = parts
    patience = Patience(float(notice), float(limit))
    return Step(phase, detail, None, False, int(update), int(number)), file, patience


# -- the main loop of this process -------------------------------------------------------------------------------------

_loop = Progress()


def of_this_process() -> Progress:
    """Return the steps of this process's main loop."""
    return _loop


def start_over() -> Progress:
    """Forget earlier steps, at the start of a run or of a data-loading worker, and open a board."""
    global _loop
    _loop = Progress()
    open_board()
    return _loop


def doing(phase: str, detail: str = "", kind: Hashable = None, waits: bool = False) -> None:
    """Begin a step of this process's main loop; see `Progress.doing`. Takes a few microseconds."""
    _loop.doing(phase, detail, kind, waits)


def within(part: str) -> contextlib.AbstractContextManager[None]:
    """Count the time of the main loop inside for one part of the run; see `Progress.within`."""
    return _loop.within(part)


def begin_update(update: int) -> None:
    """Set the number of completed updates, for the following steps."""
    _loop.begin_update(update)


def reading(file: str) -> None:
    """Record the audio file that this process reads from now on."""
    _loop.reading(file)
