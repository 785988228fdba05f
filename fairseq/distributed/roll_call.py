"""Share what each process of a run is doing, through the run's store."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.distributed as dist

from fairseq.distributed import progress
from fairseq.distributed.progress import Step

EVERY = 2.0  # seconds between two reports
MISSING = 20.0  # seconds without a new report after which a process counts as missing
_VERDICT = "verdict"
_MOST_READ = 256  # reports that each process reads at every report of its own


class Report(NamedTuple):
    """What a process says about itself."""

    rank: int
    number: int  # of this report
    host: str
    local_rank: int
    pid: int
    step: Step
    still: float  # seconds since its last beat
    notice: float  # its `Patience`
    limit: float
    waits_for: str  # file or data-loading worker; "" if neither

    def who(self) -> str:
        return f"rank {self.rank} (local rank {self.local_rank}, process {self.pid} on {self.host})"


class Heard(NamedTuple):
    """Another process's last report, and when it arrived (the reader's clock)."""

    report: Report
    at: float


def own_report(rank: int, local_rank: int, number: int, still: float, timeout: float) -> Report:
    """Describe this process; its main thread may be anywhere."""
    loop = progress.of_this_process()
    patience = loop.patience(timeout)
    return Report(
        rank,
        number,
        socket.gethostname(),
        local_rank,
        os.getpid(),
        loop.step,
        still,
        patience.notice,
        patience.limit,
        waits_for(loop.step, loop.file, loop.source, loop.worker),
    )


def waits_for(step: Step, file: str, source: str, worker: int | None) -> str:
    """Say which file of which manifest, or which data-loading worker, a process waits for while it needs a batch."""
    if step.phase not in ("data", "validation", "starting"):
        return ""
    of_source = f" of {source}" if source else ""
    if worker is None:
        return f"it reads {file}{of_source}" if file and step.phase != "validation" else ""
    shown = progress.look_at(worker)
    if shown is None:
        return f"it waits for data-loading worker {worker}, which has ended"
    reads = f", which reads {shown.file}{of_source}" if shown.file else f", which makes a batch{of_source}"
    return f"it waits for data-loading worker {worker}, state {shown.state}{reads}"


def main_stack(most: int = 30) -> list[str]:
    """Return the lines of the main thread's Python stack, outermost first, without reading source files."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    lines: list[str] = []
    while frame is not None and len(lines) < most:
        if not frame.f_code.co_filename.startswith("<frozen"):  # Python's own import machinery
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return lines[::-1]


class RollCall:
    """Report what this process is doing to the run's store, and read other reports while it makes no progress.

    A thread uses the store, which blocks while the process that serves it is stopped.

    Args:
        store: torch.distributed's store, shared by all processes.
        own: makes this process's report with this count.
        clock: returns seconds; those in which this process was suspended do not count.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        own: Callable[[int], Report],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self.verdict = ""  # why the run must end, as another process wrote it
        self._store = dist.PrefixStore("roll_call", store)
        self._own, self._clock = own, clock
        self._closing = threading.Event()
        self._heard: dict[int, Heard] = {}
        self._exchanged = clock()  # when the store last answered
        self._thread = threading.Thread(target=self._talk, name="roll call", daemon=True)
        self.has_ended = False  # the store has

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. It may hang at the store, so this waits at most a second."""
        self._closing.set()
        self._thread.join(1.0)

    def heard(self) -> list[Heard]:
        """List the last reports of the other processes, by rank, with the seconds since each changed in `still`."""
        now = self._clock()
        return [
            Heard(report._replace(still=report.still + max(0.0, now - at)), at)
            for _, (report, at) in sorted(self._heard.copy().items())
        ]

    def missing(self) -> list[int]:
        """List the ranks that have not reported for MISSING seconds; 0 also if the store does not answer.

        This process reads the reports only while it makes no progress.
        """
        now = self._clock()
        if self.has_ended:
            return []
        if now - self._exchanged > MISSING:
            return [0] if self.rank else []
        return [rank for rank, (_, at) in sorted(self._heard.copy().items()) if now - at > MISSING]

    def pass_verdict(self, verdict: str) -> None:
        """Tell the other processes why the run must end."""
        self._ask(lambda: self._store.set(_VERDICT, verdict))

    def stack(self, rank: int) -> list[str]:
        """Return the stack that another process reported last; empty if it has not reported one."""
        key = f"stack{rank}"
        found = self._ask(lambda: self._store.get(key) if self._store.check([key]) else b"")
        return found.decode().splitlines() if found else []

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Use the store; returns None if it does not answer within a few seconds."""
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # the process that serves the store has ended
                answers.append(question())

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(EVERY)
        return answers[0] if answers else None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        count = 0
        while not self._closing.is_set():
            count += 1
            try:
                self.exchange(count)
            except RuntimeError:  # the process that serves the store has ended
                self.has_ended = True
                return
            self._exchanged = self._clock()
            self._closing.wait(EVERY)

    def exchange(self, count: int) -> None:
        """Write this process's report, and read those of the others if it makes no progress (rank 0's always).

        Raises:
            RuntimeError: the process that serves the store has ended.
        """
        own = self._own(count)
        self._store.set(f"stack{self.rank}", "\n".join(main_stack()))
        self._store.set(str(self.rank), json.dumps(own._replace(step=own.step._replace(kind=None))))
        stands = own.still > EVERY and count % -(-self.world_size // _MOST_READ) == 0
        ranks = [rank for rank in (range(self.world_size) if stands else [0]) if rank != self.rank]
        ranks = [rank for rank in ranks if self._store.check([str(rank)])]
        texts = self._store.multi_get([str(rank) for rank in ranks]) if ranks else []
        for rank, text in zip(ranks, texts, strict=True):
            report = Report(*json.loads(text))
            report = report._replace(step=Step(*report.step))
            if rank not in self._heard or self._heard[rank].report.number != report.number:
                self._heard[rank] = Heard(report, self._clock())
        if stands and self._store.check([_VERDICT]):
            self.verdict = self._store.get(_VERDICT).decode()
