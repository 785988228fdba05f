"""Worker processes that prepare batches in advance, and the transfer of batches to the trainer.

torch's DataLoader is not used for three reasons: its queue loses a batch if /dev/shm is full, and the trainer waits
forever; its SIGCHLD handler raises anywhere in the main thread; and a worker that dies while others start hangs the
run. Here each worker has one socket. A batch's tensors are passed in an anonymous memory file (memfd) that the worker
fills, so /dev/shm is not used.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import multiprocessing
import os
import signal
import socket
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, reduction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq import utils
from fairseq.data.batching import BatchPlan
from fairseq.dataclass.base import RunError
from fairseq.distributed import progress, signals, watchdog

# bytes of plans that a worker has not processed: less than a socket's buffer, so that sending never blocks
_PLAN_BYTES = 1 << 16
_MOST_AHEAD = 64
_EXPECTED = 2  # plans after the one in work that a worker knows
_ALIGNMENT = 64


class WorkerDied(RunError):
    """A data-loading worker exited unexpectedly."""


class Failure(NamedTuple):
    """An error in a worker, for the main process to raise."""

    message: str
    mistake: bool  # a user's mistake, raised as ValueError without the worker's traceback


# -- transfer of a batch -----------------------------------------------------------------------------------------------


class _Slot(NamedTuple):
    """Placeholder for a tensor of a batch whose values are sent separately."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class _Parcel(NamedTuple):
    """A batch with slots instead of tensors, and the tensors' bytes; `data` is None if a memory file follows."""

    batch: Any
    num_bytes: int
    data: bytearray | None


def send(end: connection.Connection, batch: Any) -> None:
    """Send a batch: dicts, lists, tuples and sets of tensors and picklable values.

    Raises:
        Exception: pickling failed; nothing has been sent.
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
        _send_file(end, file)
    finally:
        os.close(file)


def _send_file(end: connection.Connection, descriptor: int) -> None:
    """Send a descriptor. multiprocessing's own waits for an answer from Python 3.14 on, and would read a plan."""
    with socket.fromfd(end.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as local:
        socket.send_fds(local, [b"f"], [descriptor])


def _receive_file(end: connection.Connection) -> int:
    """Receive the descriptor of a file that `_send_file` sent.

    Raises:
        EOFError: the other side has exited.
        RuntimeError: this process has no descriptor left for it.
    """
    with socket.fromfd(end.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as local:
        message, descriptors, _, _ = socket.recv_fds(local, 1, 1)
    if not message:
        raise EOFError
    if not descriptors:
        raise RuntimeError("a batch came without its file: there are too many open files")
    return descriptors[0]


def _bytes_of(values: Tensor) -> Any:
    return values.reshape(-1).view(torch.uint8).numpy()


def _memory_file(slots: list[tuple[_Slot, Tensor]], size: int) -> int | None:
    """Write the tensors' bytes to an anonymous memory file; return its descriptor, or None if that is impossible."""
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
    """Receive a batch that `send` sent.

    Raises:
        EOFError, ConnectionError: the other side has exited.
        OSError, RuntimeError: out of memory or file descriptors.
    """
    parcel = end.recv()
    if parcel.data is not None:
        source: Any = parcel.data
    else:
        descriptor = _receive_file(end)
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


Expect = Callable[[BatchPlan], None]


def make(
    make_batch: Callable[[BatchPlan], Any],
    plan: BatchPlan,
    expect: Expect | None = None,
    later: Iterable[BatchPlan] = (),
) -> Any:
    """Return the batch of a plan, or a Failure. First, `expect` is called with the plan and with later ones."""
    try:
        if expect is not None:
            for each in (plan, *later):
                expect(each)
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
    expect: Expect | None,
) -> None:
    """Run a worker process: receive plans and send batches until the trainer exits.

    Args:
        others: the trainer's socket ends that a fork copied. They are closed here: an open copy would hide that the
            trainer has exited.
        parent: the trainer's process id if it is this process's parent, else None.
    """
    signals.in_worker()
    signals.end_with_parent()  # a worker that hangs in a read cannot poll for the trainer
    progress.start_over()
    torch.set_num_threads(1)
    for other in others:
        other.close()
    parent = os.getppid() if parent is None else parent
    plans: collections.deque[BatchPlan] = collections.deque()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the trainer has exited
        while True:
            while not plans and not end.poll(1.0):
                if os.getppid() != parent:
                    return
            while len(plans) <= _EXPECTED and end.poll(0):
                plans.append(end.recv())
            batch = make(make_batch, plans.popleft(), expect, plans)
            progress.reading("")
            try:
                send(end, batch)
            except (OSError, KeyboardInterrupt):
                raise
            except Exception:
                send(
                    end,
                    Failure(
                        f"a data-loading worker could not send its batch:\n{traceback.format_exc()}", mistake=False
                    ),
                )


# -- in the trainer ----------------------------------------------------------------------------------------------------


class _Worker:
    """One worker process, its socket, and the sizes of the plans that it has not processed yet."""

    def __init__(
        self, context: Any, make_batch: Callable[[BatchPlan], Any], expect: Expect | None, others: list[_Worker]
    ) -> None:
        self.end, theirs = context.Pipe(duplex=True)
        forked = context.get_start_method() == "fork"
        ends = [self.end, *(other.end for other in others)] if forked else []
        self.process = context.Process(
            target=_work,
            args=(theirs, ends, os.getpid() if forked else None, make_batch, expect),
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
    """Iterator over the batches of plans, in order, which worker processes prepare in advance.

    Args:
        make_batch: called in a worker to create the batch of a plan.
        plans: the plans; read only as far ahead as the workers can work.
        workers: number of processes; process i % workers creates batch i.
        ahead: batches that each worker prepares in advance.
        start_method: start method of the processes.
        expect: called in a worker with plans that it will make soon; the one that comes next is the first.
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
        expect: Expect | None = None,
    ) -> None:
        self._plans = plans
        self._ahead = min(max(2, ahead), _MOST_AHEAD)
        self._drawn: bytes | None = None  # a plan that no worker had room for
        self._next_asked = self._next_taken = 0
        self._workers: list[_Worker] = []
        # before the first starts, so that an error in between still ends those that did
        self.close = weakref.finalize(self, _end, self._workers)
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload(["fairseq"])  # imported once, not in each worker of each epoch
        for number in range(1, workers + 1):
            try:
                self._workers.append(_Worker(context, make_batch, expect, self._workers))
            except OSError as error:
                self.close()
                raise RunError(
                    f"cannot start data-loading worker {number} of {workers}: {error.strerror or error}. Lower "
                    "dataset.num_workers (0 starts no processes), or raise the limits on processes, open files or "
                    "memory."
                ) from error

    def __iter__(self) -> BatchWorkers:
        return self

    def __next__(self) -> Any:
        self._ask_ahead()
        if self._next_taken == self._next_asked:
            raise StopIteration
        worker = self._workers[self._next_taken % len(self._workers)]
        progress.of_this_process().worker = worker.process.pid
        try:
            self._wait_for(worker)
            batch = self._receive(worker)  # blocks if the worker is stopped while it sends
        finally:
            progress.of_this_process().worker = None
        worker.asked.popleft()
        self._next_taken += 1
        self._ask_ahead()
        return batch

    def _receive(self, worker: _Worker) -> Any:
        try:
            return receive(worker.end)
        except (EOFError, ConnectionError) as error:
            raise self._death_of(worker) from error
        except (OSError, RuntimeError) as error:
            self.close()
            raise RunError(
                f"cannot receive a batch from a data-loading worker: {error}. Raise the limit on open files "
                "(ulimit -n) or memory, or set dataset.num_workers=0."
            ) from error

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
        """Wait for this worker's next batch. It makes progress if it begins to read a file, or waits for a store.

        Raises:
            WorkerDied: a worker has exited.
            WaitEnded: a signal or the watchdog requested the end of the run, and the batch did not arrive in time.
        """
        sentinels = {each.process.sentinel: each for each in self._workers}
        shown = None
        while not worker.end.poll(0):
            ready = connection.wait([worker.end, *sentinels], timeout=1.0)
            if worker.end in ready:
                return
            for sentinel in ready:
                raise self._death_of(sentinels[sentinel])
            before, shown = shown, progress.look_at(worker.process.pid or 0)
            # what it reads, not its state: a worker that hangs in one file may switch between running and sleeping
            if before is not None and shown is not None and shown.file != before.file:
                progress.of_this_process().alive()
            signals.check_wait()
            watchdog.check_wait()

    def _death_of(self, worker: _Worker) -> WorkerDied:
        pid, how = worker.process.pid, worker.how_it_ended()
        self.close()
        return WorkerDied(
            f"data-loading worker {pid} {how}. The usual cause is that the machine or container is out of memory: "
            "lower dataset.data_buffer_size, or set dataset.num_workers=0 to read audio in the training process."
        )


def _end(workers: list[_Worker]) -> None:
    """Kill these processes; they write no files, so they need no time to clean up."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(10.0)
        worker.end.close()
    workers.clear()
