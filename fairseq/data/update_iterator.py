"""The updates of an epoch, their batches made ahead of time by worker processes."""

from __future__ import annotations

import logging
import math
import multiprocessing
import re
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fairseq.data.batching import BatchPlan
from fairseq.device.base import available_cores

logger = logging.getLogger(__name__)

_WORKER_DIED = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)")  # torch has no class for this error


def sensible_workers(requested: int, local_ranks: int = 1) -> int:
    """Data-loading workers for one of `local_ranks` processes on this machine: not more together than there are cores.

    Logs one line if that is fewer than `requested` (dataset.num_workers). The result of a run does not depend on it.
    """
    allowed = max(1, available_cores() // max(1, local_ranks))
    if requested <= allowed:
        return requested
    logger.info(
        "dataset.num_workers is %d, but %d cores are shared by %d process(es): using %d", requested, available_cores(), local_ranks, allowed
    )
    return allowed


class _Failure(NamedTuple):
    """What went wrong in a worker, for the main process to raise. A user's mistake comes without the worker's traceback."""

    message: str
    mistake: bool


class _Reader(torch.utils.data.Dataset):
    """What a worker process does: plan -> batch."""

    def __init__(self, make_batch: Callable[[BatchPlan], Any]) -> None:
        self.make_batch = make_batch

    def __getitem__(self, plan: BatchPlan) -> Any:
        try:
            return self.make_batch(plan)
        except ValueError as error:
            return _Failure(str(error), mistake=True)
        except Exception:  # re-raised by the main process; a loader that meets an exception itself takes ten seconds to close
            if torch.utils.data.get_worker_info() is None:
                raise
            return _Failure(f"a data-loading worker failed:\n{traceback.format_exc()}", mistake=False)


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Settings of a worker process: one thread, and signals that are meant for the trainer are left to it."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # a scheduler sends SIGTERM to all processes of a job, and the trainer still needs us while it saves; the second one ends us
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class UpdateIterator:
    """Iterates over the updates that are left in an epoch; each item is the list of this rank's batches of an update.

    Args:
        plans: one list of plans an update, in order.
        total: updates in `plans`.
        done: updates of this epoch before them.
        workers: processes that make batches; 0 makes them here.
        buffer_size: batches to make ahead.
        start_method: how workers start.
        pin_memory: copy batches to pinned memory, from which a CUDA device fetches them asynchronously.
    """

    def __init__(
        self,
        make_batch: Callable[[BatchPlan], Any],
        plans: Iterator[list[BatchPlan]],
        total: int,
        done: int = 0,
        workers: int = 0,
        buffer_size: int = 0,
        start_method: str | None = None,
        pin_memory: bool = False,
    ) -> None:
        self._plans = plans
        self._steps: list[int] = []  # steps of each update whose plans have been handed to the loader
        self.total = done + total
        self.n = done
        self.steps_done = 0  # of this rank, since this iterator began
        self.data_wait = 0.0  # seconds that the last update waited for its batches
        options: dict[str, Any] = {}
        if workers > 0:
            options = {"multiprocessing_context": start_method or "fork", "worker_init_fn": _start_worker}
            if start_method == "forkserver":
                multiprocessing.set_forkserver_preload(["fairseq"])  # imported once, not in each worker of each epoch
            options["prefetch_factor"] = max(2, math.ceil(buffer_size / workers))
        self._loader = torch.utils.data.DataLoader(
            _Reader(make_batch), sampler=self._flat(), batch_size=None, collate_fn=_as_it_is, num_workers=workers, pin_memory=pin_memory,
            generator=torch.Generator(), **options,  # own generator: making a loader must not advance torch's default one
        )  # fmt: skip
        self._batches: Iterator[Any] | None = None

    def _flat(self) -> Iterator[BatchPlan]:
        for update in self._plans:
            self._steps.append(len(update))
            yield from update

    def __len__(self) -> int:
        """Updates left."""
        return self.total - self.n

    def has_next(self) -> bool:
        return self.n < self.total

    def __iter__(self) -> UpdateIterator:
        return self

    def __next__(self) -> list[Any]:
        if not self.has_next():
            raise StopIteration
        began = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self._loader)
            # at exit multiprocessing sends workers one SIGTERM, which ours survive, and waits: they must be gone before
            weakref.finalize(self, _let_workers_go, self._batches)
        update = [self._next_batch()]
        while len(update) < self._steps[0]:
            update.append(self._next_batch())
        self.steps_done += self._steps.pop(0)
        self.n += 1
        self.data_wait = time.perf_counter() - began
        if not self.has_next():
            self.close()
        return update

    def _next_batch(self) -> Any:
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            if not _WORKER_DIED.search(str(error)):
                raise
            raise RuntimeError(
                "a data-loading worker process died: it was killed from outside (memory full?) or /dev/shm is too small for its batches. "
                f"Fewer or no workers (dataset.num_workers=0) need less of both. The loader said: {error}"
            ) from error
        if isinstance(batch, _Failure):
            self.close()
            raise ValueError(batch.message) if batch.mistake else RuntimeError(batch.message)
        return batch

    def close(self) -> None:
        """Let the workers go."""
        _let_workers_go(self._batches)
        self._batches = None


def _let_workers_go(batches: Iterator[Any] | None) -> None:
    if isinstance(batches, torch.utils.data.dataloader._MultiProcessingDataLoaderIter):
        batches._shutdown_workers()
