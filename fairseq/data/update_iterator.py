"""The updates of an epoch, their batches made ahead of time by worker processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from fairseq import utils
from fairseq.data.batch_workers import BatchWorkers, Failure
from fairseq.data.batching import BatchPlan
from fairseq.device.base import available_cores
from fairseq.distributed import roll_call

logger = logging.getLogger(__name__)


def sensible_workers(requested: int, local_ranks: int = 1) -> int:
    """Data-loading workers for one of `local_ranks` processes on this machine: not more together than there are cores.

    Logs one line if that is fewer than `requested` (dataset.num_workers). The result of a run does not depend on it.
    """
    allowed = max(1, available_cores() // max(1, local_ranks))
    if requested <= allowed:
        return requested
    logger.info(
        "dataset.num_workers is %d, but %d cores are shared by %d process(es): using %d",
        requested,
        available_cores(),
        local_ranks,
        allowed,
    )
    return allowed


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
    Raises:
        WorkerDied: from `next`: a worker has ended.
        WaitEnded: from `next`: a signal asked the run to end, and no batch came.
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
        self._make_batch, self._workers, self._buffer_size = make_batch, workers, buffer_size
        self._start_method, self._pin_memory = start_method or "fork", pin_memory
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
        roll_call.doing("waiting for a batch")
        if self._batches is None:
            self._batches = self._begin()
        update = [self._next_batch()]
        while len(update) < self._steps[0]:
            update.append(self._next_batch())
        self.steps_done += self._steps.pop(0)
        self.n += 1
        self.data_wait = time.perf_counter() - began
        roll_call.doing("computing")
        if not self.has_next():
            self.close()
        return update

    def _begin(self) -> Iterator[Any]:
        if self._workers == 0:
            return map(self._make_batch, self._flat())
        ahead = math.ceil(self._buffer_size / self._workers)
        return BatchWorkers(self._make_batch, self._flat(), self._workers, ahead, self._start_method)

    def _next_batch(self) -> Any:
        batch = next(self._batches)
        if isinstance(batch, Failure):
            self.close()
            raise ValueError(batch.message) if batch.mistake else RuntimeError(batch.message)
        return utils.apply_to_sample(Tensor.pin_memory, batch) if self._pin_memory else batch

    def close(self) -> None:
        """Let the workers go."""
        if isinstance(self._batches, BatchWorkers):
            self._batches.close()
        self._batches = None
