"""How the processes of a run agree to stop after the same update."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum

from fairseq.distributed import utils as distributed

logger = logging.getLogger("fairseq.trainer")


class StopWish(IntEnum):
    """Why a process wants all of them to stop after the same update; the larger one counts."""

    NONE = 0
    TIME = 1  # optimization.stop_time_hours
    SIGNAL = 2


class Stopping:
    """What this process wants, and what any of them wants.

    Args:
        hours: `optimization.stop_time_hours`; 0: no limit.
        seconds_trained: by the run so far.
    """

    def __init__(self, hours: float, seconds_trained: Callable[[], float]) -> None:
        self._limit = hours
        self._seconds_trained = seconds_trained
        self._wish = StopWish.NONE
        self._seen: Callable[[], float] = lambda: 0.0

    def wish(self) -> None:
        """Called by a signal's handler: all processes are to stop after the same update."""
        self._wish = StopWish.SIGNAL

    def agreed(self) -> StopWish:
        """Why any process wished to stop, the same on all of them; to be asked once an update.

        Several processes learn it from each other on the host, an update later, so that none waits for another one's
        device.
        """
        own = self._own_wish()
        if distributed.get_world_size() == 1:
            return own
        seen = StopWish(int(self._seen()))
        self._seen = distributed.begin_max_on_host(own)
        return seen

    def starts_out_of_time(self) -> bool:
        """Whether the time was over before this run's first update, on any process; waits for all of them."""
        return distributed.begin_max_on_host(float(self._own_wish() is StopWish.TIME))() > 0

    def _own_wish(self) -> StopWish:
        """This process's own; its clock may differ from the others', so it decides nothing by itself."""
        hours = self._seconds_trained() / 3600
        if self._wish is StopWish.NONE and 0 < self._limit < hours:
            self._wish = StopWish.TIME
            logger.info("stopping: %.2f hours of training, optimization.stop_time_hours is %g", hours, self._limit)
        return self._wish
