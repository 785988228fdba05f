"""Iterate over the updates of an epoch, with batches prepared in advance by worker processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator

from torch import Tensor

from fairseq import utils
from fairseq.data.batch import Batch
from fairseq.data.batch_workers import BatchWorkers, Failure
from fairseq.data.batching import BatchPlan
from fairseq.data.options import LoaderOptions
from fairseq.device.base import available_cores
from fairseq.distributed import progress

logger = logging.getLogger(__name__)
_DEFAULTS = LoaderOptions()


def sensible_workers(requested: int, local_ranks: int = 1) -> int:
    """Return the number of workers for one of `local_ranks` processes, so that all have at most one per core.

    Logs one line if that is less than `requested` (dataset.num_workers). Results of a run do not depend on it.
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
    """Iterator over the remaining updates of an epoch; each item is the list of this rank's batches of an update.

    Args:
        make_batch: creates the batch of a plan.
        plans: one list of plans per update, in order.
        total: number of updates in `plans`.
        done: updates of this epoch before `plans`.
        options: the worker settings.
        expect: called in a worker with plans that it will make soon.
    Raises:
        WorkerDied: from `next`: a worker has exited.
        WaitEnded: from `next`: a signal requested the end of the run, and no batch arrived in time.
    """

    def __init__(
        self,
        make_batch: Callable[[BatchPlan], Batch],
        plans: Iterator[list[BatchPlan]],
        total: int,
        done: int = 0,
        options: LoaderOptions = _DEFAULTS,
        expect: Callable[[BatchPlan], None] | None = None,
    ) -> None:
        self._plans = plans
        self._steps: list[int] = []  # steps of each update whose plans the loader has read
        self.total = done + total
        self.n = done
        self.steps_done = 0  # by this rank, since this iterator started
        self.data_wait = 0.0  # seconds that the last update waited for its batches
        self._make_batch, self._options, self._expect = make_batch, options, expect
        self._batches: Iterator[Batch | Failure] | None = None

    def _flat(self) -> Iterator[BatchPlan]:
        for update in self._plans:
            self._steps.append(len(update))
            yield from update

    def __len__(self) -> int:
        """Return the number of remaining updates."""
        return self.total - self.n

    def has_next(self) -> bool:
        return self.n < self.total

    def __iter__(self) -> UpdateIterator:
        return self

    def __next__(self) -> list[Batch]:
        if not self.has_next():
            raise StopIteration
        began = time.perf_counter()
        progress.doing("data")
        if self._batches is None:
            self._batches = self._begin()
        update = [self._next_batch(self._batches)]
        while len(update) < self._steps[0]:
            progress.doing("data", f"batch {len(update) + 1} of the update")
            update.append(self._next_batch(self._batches))
        self.steps_done += self._steps.pop(0)
        self.n += 1
        self.data_wait = time.perf_counter() - began
        progress.doing("computing")
        if not self.has_next():
            self.close()
        return update

    def _begin(self) -> Iterator[Batch | Failure]:
        workers = self._options.num_workers
        if workers == 0:
            return map(self._make_batch, self._flat())
        ahead = math.ceil(self._options.buffer_size / workers)
        start_method = self._options.start_method or "fork"
        return BatchWorkers(self._make_batch, self._flat(), workers, ahead, start_method, self._expect)

    def _next_batch(self, batches: Iterator[Batch | Failure]) -> Batch:
        batch = next(batches)
        if isinstance(batch, Failure):
            self.close()
            raise ValueError(batch.message) if batch.mistake else RuntimeError(batch.message)
        return utils.apply_to_sample(Tensor.pin_memory, batch) if self._options.pin_memory else batch

    def close(self) -> None:
        """Stop the workers."""
        if isinstance(self._batches, BatchWorkers):
            self._batches.close()
        self._batches = None
