"""A hint for runs that share the CPU with other programs: OpenMP's threads then spend their time on busy waiting.

Passive waiting is not the default: on an idle two-core machine (Intel Xeon, the demo's config, three pairs of runs) it
costs 3 to 7 %.
"""

from __future__ import annotations

import logging
import os
import time

import torch

logger = logging.getLogger(__name__)

SETTLED = 60.0  # seconds of training after which the one-minute load average includes this run


def advice(load: float, cores: int, threads: int, processes: int, workers: int) -> str | None:
    """Say what to do about a machine's load; None if this run alone causes it, or has a single thread.

    Two threads on two cores at a load of 4.5: 0.38 updates per second; 1.35 with one thread, 1.65 with passive waiting.

    Args:
        load: the machine's runnable processes, averaged over a minute.
        cores: the machine's cores.
        threads: threads of each training process.
        processes: training processes on this machine.
        workers: data-loading workers of each.
    """
    others = load - processes * (threads + workers)
    if threads == 1 or load <= cores or others < 1:
        return None
    return (
        f"machine load: {load:.1f} on {cores} cores. Other programs interrupt this run's {threads} threads, and "
        "threads that wait for an interrupted one use a whole core. Start the run with OMP_WAIT_POLICY=passive in "
        "the environment, or set common.threads_per_process=1."
    )


class LoadHint:
    """Check the load while a run trains on the CPU, and log `advice` once.

    Args:
        device_type: other devices than `cpu` are not checked.
        processes, workers: see `advice`.
    """

    def __init__(self, device_type: str, processes: int, workers: int) -> None:
        self._is_over = device_type != "cpu" or "OMP_WAIT_POLICY" in os.environ
        self._processes, self._workers, self._began = processes, workers, time.monotonic()

    def look(self) -> None:
        if self._is_over or time.monotonic() - self._began < SETTLED:
            return
        text = advice(os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads(), self._processes, self._workers)
        if text is not None:
            self._is_over = True
            logger.warning(text)
