"""A sign of life on stderr while a check runs: which one, and for how long."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

EVERY = 8.0  # seconds without a line, at the most


class Heartbeat:
    """Says every few seconds what is being done; quick checks are silent. A context manager, as a thread writes the
    lines.
    """

    def __init__(self, program: str, first: str) -> None:
        self.program, self.what, self.since = program, first, time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="preflight-progress", daemon=True)

    def __call__(self, what: str) -> None:
        """From now on this is being done."""
        self.what, self.since = what, time.monotonic()

    def _tell(self) -> None:
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
    """For callers that show no progress."""
