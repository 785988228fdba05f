"""Run the passes over utterances in several processes. Results do not depend on their number."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.pool import Pool
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


def _start(make: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _state[:] = [make()]


def _apply(work: tuple[Callable[[object, Task], Part], Task]) -> Part:
    function, task = work
    return function(_state[0], task)


class Workers:
    """Processes that each hold the same state, such as opened manifests; a context manager.

    Args:
        count: processes; 1 works in this one.
        make: makes the state, in each process.
    """

    def __init__(self, count: int, make: Callable[[], object]) -> None:
        self.count = count
        self._make = make
        self._pool: Pool | None = None
        self._own: object = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            # forked processes share the manifests that this one has read
            method = "fork" if sys.platform == "linux" else "spawn"
            self._pool = multiprocessing.get_context(method).Pool(self.count, _start, (self._make,))
        else:
            self._own = self._make()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def map(self, function: Callable[[object, Task], Part], tasks: Iterable[Task]) -> Iterator[Part]:
        """Yield the results of the tasks in their order, with a bounded number of tasks in flight."""
        if self._pool is None:
            yield from (function(self._own, task) for task in tasks)
            return
        waiting = []
        for task in tasks:
            waiting.append(self._pool.apply_async(_apply, ((function, task),)))
            if len(waiting) >= self.count * _AHEAD:
                yield waiting.pop(0).get()
        while waiting:
            yield waiting.pop(0).get()
