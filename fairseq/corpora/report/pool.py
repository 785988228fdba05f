"""Run the passes over utterances in several processes. Results do not depend on their number."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Part = TypeVar("Part")
_AHEAD = 4  # tasks in flight per process: a bounded number, whatever the size of the corpus


class Bar(Protocol):
    """What shows the progress of a pass."""

    def advance(self, items: int = 1) -> None: ...


# makes a bar: (title, number of utterances, unit)
Bars = Callable[[str, int, str], AbstractContextManager[Bar]]

_state: list[object] = []  # of a worker process


def _start(state: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _state[:] = [state]


def _apply(function: Callable[[object, Task], Part], task: Task) -> Part:
    return function(_state[0], task)


def _nothing() -> None:
    """Do nothing: the first task starts the processes."""


class Workers:
    """Processes that hold the same state, such as opened manifests; a context manager.

    Args:
        count: processes; 1 works in this one.
        state: what the functions of `map` get first.
    """

    def __init__(self, count: int, state: object) -> None:
        self.count = count
        self._state = state
        self._pool: ProcessPoolExecutor | None = None
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> Workers:
        if self.count > 1:
            # forked processes share what this one has read; they start now, before a bar starts a thread
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            before = multiprocessing.active_children()
            self._pool = ProcessPoolExecutor(self.count, context, _start, (self._state,))
            self._pool.submit(_nothing).result()
            self._processes = [process for process in multiprocessing.active_children() if process not in before]
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for process in self._processes:  # a task may be in the middle of a long recording
                process.terminate()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[object, Task], Part], tasks: Iterable[Task]) -> Iterator[Part]:
        """Yield the results of the tasks in their order, with a bounded number of tasks in flight.

        Raises:
            ValueError: a worker was killed.
        """
        if self._pool is None:
            yield from (function(self._state, task) for task in tasks)
            return
        waiting: deque[Future[Part]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(_apply, function, task))
                if len(waiting) >= self.count * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"one of the {self.count} processes (--workers) was killed, usually for lack of memory. "
                "Lower --workers."
            ) from error
