"""Do the work of many items in processes, in the order of the items, with bounded memory."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fairseq.distributed import signals

_AHEAD = 3  # items per worker that are in memory
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_order(work: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[tuple[_In, _Out]]:
    """Yield (item, work(item)) in the order of the items.

    Args:
        work: a picklable function; its result too is sent between processes.
        items: what to work on; only a few per worker are taken in advance.
        workers: number of processes; 1: this process does it.
    Raises:
        ValueError: a worker was killed.
    """
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return
    # forked: starting is free, and the workers need neither torch's threads nor a device
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start)
    waiting: deque[tuple[_In, Future[_Out]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= workers * _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"one of the {workers} workers (--workers) was killed, usually for lack of memory. Lower --workers and "
            "rerun the command: it continues."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    signals.end_with_parent()  # a killed command leaves no processes behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its workers
