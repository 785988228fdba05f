"""Signals that end a run after the current update, with a checkpoint; a second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
AGAIN = 1.0  # seconds; torchrun and timeout(1) deliver one Ctrl-C twice within milliseconds
GRACE = 10.0  # seconds that a wait may still take after a signal; SLURM and Kubernetes send SIGKILL after 30
NOTICE = 3.0  # seconds until the log says that the run ends after this update
LOST = 20.0  # seconds after which a process stops waiting for another one that does not answer
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# torchrun's own process: when it ends, its ranks must end
_AGENT = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


class WaitEnded(Exception):
    """A signal asked the run to end while this process waited for a batch or another process.

    Args:
        status: this process's exit status.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class Ending:
    """The first signal that asked the run to end, and a thread that acts when Python's handlers cannot run.

    Python runs handlers between two steps of the main thread, but not while it waits inside a library. The thread
    receives signals through `signal.set_wakeup_fd`.

    Args:
        on_first: called once, in the main thread.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.name: str | None = None  # of the first signal
        self._on_first = on_first
        # set only by the thread, so that a delayed thread does not take the first Ctrl-C for a second one
        self._first_at: float | None = None
        self._noticed = False
        self._agent = _AGENT
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._closing = False

    def note(self, number: int, frame: Any) -> None:
        """Python's handler."""
        if self.name is None:
            self.name = signal.Signals(number).name
            self._on_first()

    @property
    def seconds_since(self) -> float | None:
        """Time since the first signal; None before it."""
        return None if self._first_at is None else time.monotonic() - self._first_at

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the thread anyway
            os.write(self._writer, b"\0")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _watch(self) -> None:
        while not self._closing:
            if select.select([self._reader], [], [], 1.0)[0]:
                for number in os.read(self._reader, 4096):
                    self._receive(number)
            since = self.seconds_since
            if self._agent is not None and os.getppid() != self._agent:
                logger.error("torchrun has ended; saving and ending this process.")
                self._agent = None
                os.kill(os.getpid(), signal.SIGTERM)
            if since is not None and since > NOTICE and not self._noticed and not self._closing:
                self._noticed = True
                logger.warning(
                    "signal received: the run saves and ends after this update. Press Ctrl-C to end at once without "
                    "saving."
                )
            if since is not None and since > LOST and _is_stuck is not None and _is_stuck():
                _leave(
                    "stopped by a signal while waiting for another process; not saved. Rerun the same command to "
                    "resume from the last checkpoint.",
                    1,
                )

    def _receive(self, number: int) -> None:
        if number not in ENDING:
            return
        since = self.seconds_since
        if since is None:
            self._first_at = time.monotonic()
        elif number == signal.SIGINT and since >= AGAIN:
            _leave(
                "ended at once by a second Ctrl-C; not saved. Rerun the same command to resume from the last "
                "checkpoint.",
                128 + signal.SIGINT,
            )


def _leave(sentence: str, status: int) -> None:
    """End this process at once, from any thread."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{sentence}\n".encode())
    os._exit(status)


_current: Ending | None = None
_is_stuck: Callable[[], bool] | None = None


def set_stuck(is_stuck: Callable[[], bool] | None) -> None:
    """Set the test for whether this process waits for another one that does not answer.

    If it is true, a signal ends this process without saving.
    """
    global _is_stuck
    _is_stuck = is_stuck


@contextlib.contextmanager
def caught(on_first: Callable[[], None]) -> Iterator[Ending]:
    """Call `on_first` once when a signal of ENDING arrives inside a `with` block.

    Signals that were ignored at the start (nohup, a shell's `&`) stay ignored.
    """
    global _current
    ending = Ending(on_first)
    mine = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, ending.note) for number in mine}
    descriptor = signal.set_wakeup_fd(ending._writer, warn_on_full_buffer=False)
    outer, _current = _current, ending
    ending.start()
    try:
        yield ending
    finally:
        _current = outer
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ending.close()


def received() -> str | None:
    """Return the name of the signal that asked this run to end; None if there was none."""
    return None if _current is None else _current.name


def check_wait() -> None:
    """Stop a wait that a signal should end; call it once per second while waiting.

    Raises:
        WaitEnded: a signal came more than GRACE seconds ago.
    """
    since = None if _current is None else _current.seconds_since
    if since is not None and since > GRACE:
        raise WaitEnded


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block signals of ENDING inside a `with` block, so that a child process sets its handlers before it gets one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_worker() -> None:
    """Ignore signals in a data-loading worker: they are for the trainer, which ends its workers itself."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # a scheduler sends SIGTERM to all processes of a job, but the trainer needs its workers until it has saved; a
    # second SIGTERM ends them
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends, for any reason (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
