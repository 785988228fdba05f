"""A hint where other programs share the CPU: OpenMP's threads then lose their time waiting for each other.

Passive waiting is not the default: on an idle machine of two cores (Intel Xeon, the demo's config, three pairs of runs)
it costs 3 to 7 %.
"""

from __future__ import annotations

import logging
import os
import time

import torch

logger = logging.getLogger(__name__)

SETTLED = 60.0  # seconds of training after which the machine's load over the last minute has this run in it


def advice(load: float, cores: int, threads: int, processes: int, workers: int) -> str | None:
    """What to do about a machine's load; None where this run alone makes it, or has a single thread.

    Two threads on two cores at a load of 4.5: 0.38 updates a second, 1.35 with one thread, 1.65 with passive waiting.

    Args:
        load: runnable processes of the machine, averaged over a minute.
        cores: of the machine.
        threads: of each training process.
        processes: of this run on this machine.
        workers: data-loading processes of each.
    """
    others = load - processes * (threads + workers)
    if threads == 1 or load <= cores or others < 1:
        return None
    return (
        f"the load of this machine is {load:.1f} on {cores} cores: other programs interrupt this run's {threads} "
        "threads, and the others wait for the interrupted one at full speed. Start the run with "
        "OMP_WAIT_POLICY=passive in the environment, or set common.threads_per_process=1."
    )


class LoadHint:
    """Looks at the load now and then while a run trains on the CPU, and logs `advice` once.

    Args:
        device_type: only on `cpu` do the threads matter.
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
