"""Share what each process of a run is doing, so that the log of a hanging run says which process it waits for."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from typing import Any, NamedTuple

import torch.distributed as dist

logger = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two reports
MISSING = 20.0  # seconds without a new report after which a process counts as missing
PATIENCE = 60.0  # seconds without progress after which the log says so


class Doing(NamedTuple):
    """What the main thread is doing, and since when (time.monotonic)."""

    what: str
    since: float


_doing = Doing("starting", time.monotonic())


def doing(what: str) -> None:
    """Record what this process is doing from now on; cheap enough to call for every batch."""
    global _doing
    _doing = Doing(what, time.monotonic())


class RollCall:
    """Report what this process is doing to the run's store, and read other reports while it makes no progress.

    It has two threads: one uses the store, which blocks while the process that serves it is stopped; the other one
    watches the clock.

    Args:
        store: torch.distributed's store, shared by all processes.
        timeout: distributed_training.distributed_timeout in seconds, for the log.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout: int) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self._store = dist.PrefixStore("roll_call", store)
        self._closing = threading.Event()
        self._seen: dict[int, tuple[dict[str, Any], float]] = {}  # rank -> its last report, and when it arrived
        self._exchanged = time.monotonic()  # when the store last answered
        self._host = socket.gethostname()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._talk, self._look)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop both threads. One may hang at the store, so this waits at most a second for each."""
        self._closing.set()
        for thread in self._threads:
            thread.join(1.0)

    def stands_still(self) -> float:
        """Seconds since this process last made progress."""
        return time.monotonic() - _doing.since

    def missing(self) -> list[int]:
        """List the ranks that have not reported for MISSING seconds.

        This process reads reports only while it makes no progress.
        """
        now = time.monotonic()
        if now - self._exchanged > MISSING:
            return [0] if self.rank else []
        return [rank for rank, (_, new_at) in sorted(self._seen.items()) if now - new_at > MISSING]

    def is_stuck(self) -> bool:
        """Whether this process makes no progress and another one is missing."""
        return self.stands_still() > MISSING and bool(self.missing())

    def describe(self) -> str:
        """Say in one line what each process is doing or waiting for."""
        missing, now = self.missing(), time.monotonic()
        parts = [f"no progress for {self.stands_still():.0f} seconds: this process is {_doing.what}"]
        for rank, (report, new_at) in sorted(self._seen.items()):
            if rank in missing:
                who = f"rank {rank} (process {report['pid']} on {report['host']})"
                parts.append(
                    f"{who} has not reported for {now - new_at:.0f} seconds: it is stopped, or its machine is gone"
                )
            elif report["what"] != _doing.what:
                parts.append(
                    f"rank {rank} has been {report['what']} for {report['seconds'] + now - new_at:.0f} seconds"
                )
        if 0 in missing and 0 not in self._seen:
            parts.append("rank 0 does not answer: it is stopped, or its machine is gone")
        if len(parts) == 1:
            parts.append("all other processes report the same")
        limit = f"distributed_training.distributed_timeout={self.timeout} s"
        return "; ".join(parts) + f". An exchange that takes longer than {limit} ends the run."

    # -- threads -------------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        count = 0
        while not self._closing.is_set():
            count += 1
            try:
                self._report(count)
                if self.stands_still() > EVERY:
                    self._read()
            except RuntimeError:  # the process that serves the store has ended
                return
            self._exchanged = time.monotonic()
            self._closing.wait(EVERY)

    def _report(self, count: int) -> None:
        report = {
            "count": count,
            "what": _doing.what,
            "seconds": self.stands_still(),
            "host": self._host,
            "pid": os.getpid(),
        }
        self._store.set(str(self.rank), json.dumps(report))

    def _read(self) -> None:
        ranks = [rank for rank in range(self.world_size) if rank != self.rank and self._store.check([str(rank)])]
        for rank, text in zip(ranks, self._store.multi_get([str(rank) for rank in ranks]), strict=True):
            report = json.loads(text)
            if rank not in self._seen or self._seen[rank][0]["count"] != report["count"]:
                self._seen[rank] = report, time.monotonic()

    def _look(self) -> None:
        reported: Doing | None = None
        while not self._closing.wait(1.0):
            if reported is _doing or self.stands_still() < PATIENCE:
                continue
            reported = _doing
            if self.rank == 0 or 0 in self.missing():  # one line, not one from each process
                logger.warning("%s", self.describe())
