"""Copy a run's state, and write it: one write at a time, on a thread of its own if asked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq import utils

ToHost = Callable[[Any], Any]
"""Returns a state in new containers, with its tensors on the CPU."""


class SaveResult(NamedTuple):
    """The result of a save."""

    paths: list[str]  # files written, the one to resume from first
    error: str | None = None  # why a file is missing; the run continues
    seconds: float = 0.0
    updates: int = 0  # of the state
    unsent: str | None = None  # which files are not in checkpoint.store, and why; the run continues


def on_host(state: Any) -> Any:
    """Return a state in new containers, with its tensors on the CPU; those that are there already are not copied."""
    return utils.apply_to_sample(lambda tensor: tensor.detach().cpu(), state)


class HostCopies:
    """Copy states to host memory that is allocated once, so that training may change the tensors afterwards.

    The next copy overwrites the last one.

    Args:
        pinned: allocate memory from which, and to which, a device copies asynchronously.
        synchronize: waits for such copies.
    """

    def __init__(self, pinned: bool, synchronize: Callable[[], None]) -> None:
        self._pinned = pinned
        self._synchronize = synchronize
        self._buffers: list[Tensor] = []
        self._missing: list[tuple[Tensor, Tensor]] = []  # memory, and the tensor that `complete` copies to it
        self._is_complete = threading.Event()
        self._is_complete.set()

    @property
    def is_complete(self) -> bool:
        """Whether training may change every tensor of the last state."""
        return self._is_complete.is_set()

    def copy(self, state: Any, steady: Iterable[Tensor] = ()) -> Any:
        """Return a state in new containers, with copies of its tensors on the CPU.

        Args:
            steady: tensors that do not change for some time. Those on the CPU are copied by `complete`, so that another
                thread can do it; copies from a device are short, and the device runs them before the next step.
        """
        places = itertools.count()
        later = {tensor.untyped_storage().data_ptr() for tensor in steady if tensor.device.type == "cpu"}
        self._missing = []
        result = utils.apply_to_sample(lambda tensor: self._copy(next(places), tensor.detach(), later), state)
        del self._buffers[next(places) :]
        self._synchronize()
        if self._missing:
            self._is_complete.clear()
        return result

    def complete(self) -> None:
        """Copy the steady tensors of the last state."""
        try:
            for buffer, tensor in self._missing:
                buffer.copy_(tensor)
        finally:
            self._missing = []
            self._is_complete.set()

    def wait(self) -> None:
        """Wait until another thread has called `complete`."""
        self._is_complete.wait()

    def _copy(self, place: int, tensor: Tensor, later: set[int]) -> Tensor:
        buffer = self._buffer(place, tensor)
        if tensor.untyped_storage().data_ptr() in later:
            self._missing.append((buffer, tensor))
            return buffer
        return buffer.copy_(tensor, non_blocking=self._pinned)

    def _buffer(self, place: int, like: Tensor) -> Tensor:
        """Return the memory for the tensor at this place of the state."""
        known = self._buffers[place] if place < len(self._buffers) else None
        if known is not None and known.shape == like.shape and known.dtype == like.dtype:
            return known
        new = torch.empty(like.shape, dtype=like.dtype, pin_memory=self._pinned)
        self._buffers[place : place + 1] = [new]
        return new


class Writer:
    """Run one write at a time.

    Args:
        in_background: on another thread, which torch's writer leaves free to run: it holds Python's lock only briefly.
    """

    def __init__(self, in_background: bool) -> None:
        self.in_background = in_background
        self._thread: threading.Thread | None = None
        self._result: SaveResult | None = None
        self._error: Exception | None = None

    @property
    def is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], SaveResult]) -> None:
        """Begin a write; without `in_background`, also finish it."""
        assert self._thread is None and self._result is None, "take the last result before the next write"
        if not self.in_background:
            self._result = write()
            return
        # not a daemon: Python waits for it at exit
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()

    def _run(self, write: Callable[[], SaveResult]) -> None:
        try:
            self._result = write()
        except Exception as error:  # raised again by `wait`
            self._error = error

    def wait(self) -> SaveResult | None:
        """Wait for the write that was started last, and return its result; None if it was taken already.

        Raises:
            Exception: that of the write.
        """
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is not None:
            raise error
        return result
