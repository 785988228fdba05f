"""Worker processes that make batches ahead of time, and the way of a batch from there to the trainer.

torch's DataLoader is not used: its queue loses a batch for which /dev/shm has no room, so that the trainer waits for
ever; its handler of SIGCHLD raises anywhere in the main thread; and a worker that dies while others start leaves the
run hanging. Here each worker has one socket. A batch's tensors travel in an anonymous file in memory (memfd) that the
worker fills and passes on: /dev/shm is not involved.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import mmap
import multiprocessing
import os
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection, reduction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq import utils
from fairseq.data.batching import BatchPlan
from fairseq.dataclass.base import RunError
from fairseq.distributed import signals

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds of waiting for one batch after which the log says so
# of plans that a worker has not answered: a socket's buffer holds more, so that sending never waits
_PLAN_BYTES = 1 << 16
_MOST_AHEAD = 64
_ALIGNMENT = 64


class WorkerDied(RunError):
    """A data-loading worker ended without being asked to."""


class Failure(NamedTuple):
    """What went wrong in a worker, for the main process to raise. A user's mistake comes without the worker's
    traceback.
    """

    message: str
    mistake: bool


# -- a batch's way -----------------------------------------------------------------------------------------------------


class _Slot(NamedTuple):
    """Stands for a tensor of a batch whose values travel beside it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class _Parcel(NamedTuple):
    """A batch whose tensors are slots, and their bytes; `data` is None where a memory file follows."""

    batch: Any
    num_bytes: int
    data: bytearray | None


def send(end: connection.Connection, batch: Any) -> None:
    """Send a batch: dicts, lists, tuples and sets with tensors and picklable things.

    Raises:
        Exception: whatever pickling raises; nothing is sent then.
    """
    slots: list[tuple[_Slot, Tensor]] = []
    size = 0

    def take(tensor: Tensor) -> _Slot:
        nonlocal size
        values = tensor.detach().cpu().contiguous()
        slot = _Slot(values.dtype, tuple(values.shape), size, values.numel() * values.element_size())
        slots.append((slot, values))
        size += -(-slot.num_bytes // _ALIGNMENT) * _ALIGNMENT
        return slot

    skeleton = utils.apply_to_sample(take, batch)
    file = _memory_file(slots, size) if size else None
    if file is None:
        data = bytearray(size)
        for slot, values in slots:
            data[slot.offset : slot.offset + slot.num_bytes] = _bytes_of(values).tobytes()
        end.send(_Parcel(skeleton, size, data))
        return
    try:
        end.send(_Parcel(skeleton, size, None))
        reduction.send_handle(end, file, None)
    finally:
        os.close(file)


def _bytes_of(values: Tensor) -> Any:
    return values.reshape(-1).view(torch.uint8).numpy()


def _memory_file(slots: list[tuple[_Slot, Tensor]], size: int) -> int | None:
    """A descriptor of an anonymous file with the tensors' bytes; None where the system has no such files, or no
    room for one.
    """
    try:
        descriptor = os.memfd_create("batch")
    except (AttributeError, OSError):
        return None
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for slot, values in slots:
                file.seek(slot.offset)
                file.write(memoryview(_bytes_of(values)))
            file.truncate(size)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def receive(end: connection.Connection) -> Any:
    """What `send` sent.

    Raises:
        EOFError, ConnectionError: the other side is gone.
        OSError, RuntimeError: no memory or no file descriptor is left.
    """
    parcel = end.recv()
    if parcel.data is not None:
        source: Any = parcel.data
    else:
        descriptor = reduction.recv_handle(end)
        try:
            source = mmap.mmap(descriptor, parcel.num_bytes)
        finally:
            os.close(descriptor)
    return _fill(parcel.batch, source)


def _fill(value: Any, source: Any) -> Any:
    if isinstance(value, _Slot):
        if value.num_bytes == 0:
            return torch.empty(value.shape, dtype=value.dtype)
        raw = torch.frombuffer(source, dtype=torch.uint8, count=value.num_bytes, offset=value.offset)
        return raw.view(value.dtype).view(value.shape)
    if isinstance(value, dict):
        return type(value)((key, _fill(inner, source)) for key, inner in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_fill(inner, source) for inner in value))
    if isinstance(value, (list, tuple, set)):
        return type(value)(_fill(inner, source) for inner in value)
    return value


# -- in a worker -------------------------------------------------------------------------------------------------------


def make(make_batch: Callable[[BatchPlan], Any], plan: BatchPlan) -> Any:
    """The batch of a plan, or the Failure to make it."""
    try:
        return make_batch(plan)
    except ValueError as error:
        return Failure(str(error), mistake=True)
    except Exception:  # the main process raises it
        return Failure(f"a data-loading worker failed:\n{traceback.format_exc()}", mistake=False)


def _work(
    end: connection.Connection,
    others: list[connection.Connection],
    parent: int | None,
    make_batch: Callable[[BatchPlan], Any],
) -> None:
    """A worker process's life: plans in, batches out, until the trainer is gone.

    Args:
        others: the trainer's ends of sockets, which a fork copies: where a copy is open, nobody notices that the
            trainer has ended.
        parent: the trainer's process id, where it is this process's parent.
    """
    signals.in_worker()
    signals.end_with_parent()  # what hangs in a read does not look whether the trainer is there
    torch.set_num_threads(1)
    for other in others:
        other.close()
    parent = os.getppid() if parent is None else parent
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the trainer is gone
        while True:
            while not end.poll(1.0):
                if os.getppid() != parent:
                    return
            batch = make(make_batch, end.recv())
            try:
                send(end, batch)
            except (OSError, KeyboardInterrupt):
                raise
            except Exception:
                send(
                    end,
                    Failure(f"a data-loading worker cannot send its batch:\n{traceback.format_exc()}", mistake=False),
                )


# -- in the trainer ----------------------------------------------------------------------------------------------------


class _Worker:
    """One worker process, its socket, and the sizes of the plans that it has not answered yet."""

    def __init__(self, context: Any, make_batch: Callable[[BatchPlan], Any], others: list[_Worker]) -> None:
        self.end, theirs = context.Pipe(duplex=True)
        forked = context.get_start_method() == "fork"
        ends = [self.end, *(other.end for other in others)] if forked else []
        self.process = context.Process(
            target=_work,
            args=(theirs, ends, os.getpid() if forked else None, make_batch),
            name="data-loading worker",
            daemon=True,
        )
        self.asked: collections.deque[int] = collections.deque()
        try:
            with signals.held_back():
                self.process.start()
        except BaseException:
            self.end.close()
            raise
        finally:
            theirs.close()

    def ask(self, plan: bytes) -> None:
        self.end.send_bytes(plan)
        self.asked.append(len(plan))

    def has_room_for(self, plan: bytes, ahead: int) -> bool:
        return not self.asked or (len(self.asked) < ahead and sum(self.asked) + len(plan) <= _PLAN_BYTES)

    def how_it_ended(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return "closed its connection"
        if code < 0:
            return (
                f"was killed by {signal.Signals(-code).name}"
                if -code in set(signal.Signals)
                else f"was killed by signal {-code}"
            )
        return f"ended with status {code}"


class BatchWorkers:
    """Iterates over the batches of plans, in their order, made by processes ahead of time.

    Args:
        plans: drawn as far ahead as the workers may work.
        workers: processes; batch i is made by process i modulo this.
        ahead: batches that each makes before they are asked for.
        start_method: how processes start.
    Raises:
        RunError: a process cannot start.
    """

    def __init__(
        self,
        make_batch: Callable[[BatchPlan], Any],
        plans: Iterator[BatchPlan],
        workers: int,
        ahead: int,
        start_method: str = "fork",
    ) -> None:
        self._plans = plans
        self._ahead = min(max(2, ahead), _MOST_AHEAD)
        self._drawn: bytes | None = None  # a plan that no worker had room for
        self._next_asked = self._next_taken = 0
        self._workers: list[_Worker] = []
        # before the first starts: whatever happens, all that did are ended
        self.close = weakref.finalize(self, _end, self._workers)
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload(["fairseq"])  # imported once, not in each worker of each epoch
        for number in range(1, workers + 1):
            try:
                self._workers.append(_Worker(context, make_batch, self._workers))
            except OSError as error:
                self.close()
                raise RunError(
                    f"cannot start data-loading worker {number} of {workers}: {error.strerror or error}. Lower "
                    "dataset.num_workers (0 needs no processes), or raise the limit of processes, open files or "
                    "memory."
                ) from error

    def __iter__(self) -> BatchWorkers:
        return self

    def __next__(self) -> Any:
        self._ask_ahead()
        if self._next_taken == self._next_asked:
            raise StopIteration
        worker = self._workers[self._next_taken % len(self._workers)]
        self._wait_for(worker)
        try:
            batch = receive(worker.end)
        except (EOFError, ConnectionError) as error:
            raise self._death_of(worker) from error
        except (OSError, RuntimeError) as error:
            self.close()
            raise RunError(
                f"cannot take over a batch from a data-loading worker: {error}. Raise the limit of open files "
                "(ulimit -n) or of memory, or set dataset.num_workers=0."
            ) from error
        worker.asked.popleft()
        self._next_taken += 1
        self._ask_ahead()
        return batch

    def _ask_ahead(self) -> None:
        while True:
            if self._drawn is None:
                plan = next(self._plans, None)
                if plan is None:
                    return
                self._drawn = bytes(reduction.ForkingPickler.dumps(plan))
            worker = self._workers[self._next_asked % len(self._workers)]
            if not worker.has_room_for(self._drawn, self._ahead):
                return
            try:
                worker.ask(self._drawn)
            except OSError as error:
                raise self._death_of(worker) from error
            self._drawn = None
            self._next_asked += 1

    def _wait_for(self, worker: _Worker) -> None:
        """Wait for this worker's next batch.

        Raises:
            WorkerDied: it or another one has ended.
            WaitEnded: a signal asked the run to end, and the batch still did not come.
        """
        began, told = time.monotonic(), False
        sentinels = {each.process.sentinel: each for each in self._workers}
        while not worker.end.poll(0):
            ready = connection.wait([worker.end, *sentinels], timeout=1.0)
            if worker.end in ready:
                return
            for sentinel in ready:
                raise self._death_of(sentinels[sentinel])
            signals.check_wait()
            if not told and time.monotonic() - began > PATIENCE:
                told = True
                logger.warning(
                    "no batch for %.0f seconds: data-loading worker %s is still at it. Is the storage of the audio "
                    "slow or gone?",
                    PATIENCE,
                    worker.process.pid,
                )

    def _death_of(self, worker: _Worker) -> WorkerDied:
        pid, how = worker.process.pid, worker.how_it_ended()
        self.close()
        return WorkerDied(
            f"data-loading worker {pid} {how}. The usual cause is that the memory of the machine or container is "
            "full: lower dataset.data_buffer_size, or set dataset.num_workers=0, so that the training process reads "
            "the audio itself."
        )


def _end(workers: list[_Worker]) -> None:
    """End these processes. They write nothing, so they need no time to tidy up."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(10.0)
        worker.end.close()
    workers.clear()
