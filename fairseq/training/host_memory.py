"""Memory of the host that a training process and its data-loading workers use."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable

EVERY = 10.0  # seconds between two measurements: the kernel takes 8 ms for each GB of a process


def resident_gb(pids: Iterable[int]) -> float | None:
    """Add up the resident memory of processes, in GB; memory that they share counts once.

    Returns:
        None where the system does not report it (Linux does).
    """
    total, found = 0, False
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            found = True
        except (OSError, StopIteration):  # another system, or a process that has just ended
            continue
    return total / 2**20 if found else None


class HostMemory:
    """The memory of this process and of its children, measured at most once in `EVERY` seconds.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._measured_at: float | None = None
        self._gb: float | None = None

    def gb(self) -> float | None:
        """Return the last measurement, or a new one; None: see `resident_gb`."""
        now = self._clock()
        if self._measured_at is None or now - self._measured_at >= EVERY:
            children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
            self._gb, self._measured_at = resident_gb([os.getpid(), *children]), now
        return self._gb
