"""A bounded queue and a thread in front of a tracker, so that no tracker can stop or slow a run.

`metrics.jsonl` is the record, and trackers are copies of it. What a tracker lacks, because its server did not answer,
the queue was full or the process was killed, it gets from there as soon as it answers, or when the run resumes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from fairseq.logging.metrics_file import Json
from fairseq.logging.trackers.rows import Place, Row, row_of, rows_of_file

logger = logging.getLogger(__name__)

ROOM = 1000  # rows that may wait
CLOSE_SECONDS = 20.0  # that the end of a run waits for a tracker, at most
RETRY_SECONDS = 300.0  # before a tracker that failed is opened again


class Tracker(Protocol):
    """A tracker's store. One thread calls all methods but `abandon`; what they raise is reported once."""

    def begin(self, rows: Sequence[Row]) -> Collection[Place]:
        """Open the store and continue the run's curves there. Called again some time after a method raised.

        Args:
            rows: those in metrics.jsonl now.
        Returns:
            The places of the rows that need not be written: the store has them.
        """
        ...

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows that the store does not have."""
        ...

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        """Write a finding of the doctor; the same one may come again."""
        ...

    def close(self) -> None:
        """Write what is pending, and mark the run as ended."""
        ...

    def abandon(self) -> None:
        """End what would keep the process from exiting, at once. Called at the end instead of a `close` that worked."""
        ...


class _Finding(NamedTuple):
    update: int
    finding: Mapping[str, Json]


class Queued:
    """A tracker as a sink: rows wait in a queue, from which a thread takes them.

    The thread starts with the first row: data-loading workers, which are forked before, have no part of it.
    A full queue drops the newest rows. The thread reads them from metrics.jsonl later.

    Args:
        name: what messages call the tracker.
        metrics: the run's metrics.jsonl.
        room: rows that may wait.
        patience: seconds that `close` waits.
        retry: seconds from a failure to the next attempt.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        metrics: Path,
        room: int = ROOM,
        patience: float = CLOSE_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self.name, self.tracker, self.metrics = name, tracker, metrics
        self.room, self.patience, self.retry = room, patience, retry
        self.dropped = 0  # so far
        self._changed = threading.Condition()  # guards the four below
        self._waiting: deque[Row | _Finding] = deque()
        self._thread: threading.Thread | None = None
        self._is_behind = False
        self._is_closing = False
        # the thread's own
        self._is_open = False
        self._stored: set[Place] = set()
        self._retry_at = 0.0
        self._failure_reported = False

    def write(self, split: str, update: int, epoch: int, stats: Mapping[str, object]) -> None:
        """Take one row; see `fairseq.logging.sinks.Sink`."""
        self._put(row_of(split, update, epoch, stats))

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        """Take a finding of the doctor."""
        self._put(_Finding(update, dict(finding)))

    def close(self) -> None:
        """Wait until everything is written, but only for a bounded time. The process can exit in any case.

        A run that wrote no row, because it was complete already, still sends what an earlier process could not.
        """
        if self._thread is None and not self.metrics.exists():
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        thread = self._started()
        thread.join(self.patience)
        is_late = thread.is_alive()
        if is_late or not self._is_open:
            self._failure_reported = True
            self.tracker.abandon()
        if is_late:
            logger.warning(
                "%s: not finished after %g seconds, so the run ends without its last rows there. They are in %s, from "
                "which a resumed run adds them.",
                self.name,
                self.patience,
                self.metrics,
            )

    def _put(self, item: Row | _Finding) -> None:
        with self._changed:
            is_full = len(self._waiting) >= self.room
            if is_full:
                self.dropped += 1
                self._is_behind = True
            else:
                self._waiting.append(item)
                self._changed.notify()
        if is_full and self.dropped == 1:
            logger.warning(
                "%s: does not keep up, %d rows wait. Further rows are only in %s, from which it gets them later.",
                self.name,
                self.room,
                self.metrics,
            )
        self._started()

    def _started(self) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name=f"tracker {self.name}", daemon=True)
            self._thread.start()
        return self._thread

    # -- on the thread -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        is_over = False
        while not is_over:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_closing)
                items = list(self._waiting)
                self._waiting.clear()
                is_behind, self._is_behind = self._is_behind, False
                is_over = self._is_closing
            try:
                self._send(items, is_behind)
                if is_over and self._is_open:
                    self.tracker.close()
            except Exception as error:  # any class: trackers raise those of their servers' clients and databases
                self._is_open = False
                self._retry_at = time.monotonic() + self.retry
                self._report(error)

    def _send(self, items: Sequence[Row | _Finding], is_behind: bool) -> None:
        if not self._is_open:
            if time.monotonic() < self._retry_at:
                return
            earlier = rows_of_file(self.metrics)
            self._stored |= set(self.tracker.begin(earlier))
            self._is_open = True
            self._write(earlier)
        elif is_behind:
            self._write(rows_of_file(self.metrics))
        self._write([item for item in items if isinstance(item, Row)])
        for item in items:
            if isinstance(item, _Finding):
                self.tracker.finding(item.update, item.finding)

    def _write(self, rows: Sequence[Row]) -> None:
        new = {row.place: row for row in rows if row.place not in self._stored}
        if new:
            self.tracker.write(list(new.values()))
            self._stored.update(new)

    def _report(self, error: Exception) -> None:
        if not self._failure_reported:
            self._failure_reported = True
            reason = " ".join(str(error).split())[:500]
            logger.error(
                "%s: cannot write (%s: %s). Training continues without it; what it lacks is in %s, from which it gets "
                "it if it works again.",
                self.name,
                type(error).__name__,
                reason,
                self.metrics,
            )
