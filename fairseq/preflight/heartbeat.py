"""Progress on stderr while a check runs: its current step, and for how long that has been running."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

EVERY = 8.0  # seconds between lines


class Heartbeat:
    """Print the current step every 8 seconds, from a thread; quick checks print nothing. A context manager."""

    def __init__(self, program: str, first: str) -> None:
        self.program, self.what, self.since = program, first, time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._print, name="preflight-progress", daemon=True)

    def __call__(self, what: str) -> None:
        """Set the current step."""
        self.what, self.since = what, time.monotonic()

    def _print(self) -> None:
        while not self._end.wait(EVERY):
            sys.stderr.write(f"{self.program}: {self.what} ({time.monotonic() - self.since:.0f} s so far)\n")
            sys.stderr.flush()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()


def silent(what: str) -> None:
    """Show no progress."""
