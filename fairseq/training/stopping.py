"""Let the processes of a run agree to stop after the same update."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum

from fairseq.distributed import utils as distributed

logger = logging.getLogger("fairseq.trainer")


class StopWish(IntEnum):
    """Why a process asks all processes to stop after the same update; the larger value takes precedence."""

    NONE = 0
    TIME = 1  # optimization.stop_time_hours
    COLLAPSE = 2  # common.doctor=stop
    SIGNAL = 3

    @property
    def ends_training(self) -> bool:
        """Whether the run validates and saves as at its end; after a signal, there is time for a save only."""
        return self in (StopWish.TIME, StopWish.COLLAPSE)


class Stopping:
    """This process's wish to stop, and the agreement of all processes.

    Args:
        hours: `optimization.stop_time_hours`; 0: no limit.
        seconds_trained: returns the seconds that the run has trained so far.
    """

    def __init__(self, hours: float, seconds_trained: Callable[[], float]) -> None:
        self._limit = hours
        self._seconds_trained = seconds_trained
        self._wish = StopWish.NONE
        self._seen: Callable[[], float] = lambda: 0.0

    def wish(self) -> None:
        """Ask all processes to stop after the same update; called by a signal handler."""
        self._wish = StopWish.SIGNAL

    def has_collapsed(self) -> None:
        """Ask all processes to end the run after the same update; called by the live doctor."""
        self._wish = max(self._wish, StopWish.COLLAPSE)

    @property
    def own(self) -> StopWish:
        """This process's wish."""
        return self._wish

    def agreed(self) -> StopWish:
        """Return why any process asked to stop, the same on all processes; call it once per update.

        With several processes, the exchange is on the host and its result arrives one update later, so no process waits
        for another one's device.
        """
        own = self._own_wish()
        if distributed.get_world_size() == 1:
            return own
        seen = StopWish(int(self._seen()))
        self._seen = distributed.begin_max_on_host(own)
        return seen

    def starts_out_of_time(self) -> bool:
        """Whether time ran out on any process before this run's first update; waits for all processes."""
        return distributed.begin_max_on_host(float(self._own_wish() is StopWish.TIME))() > 0

    def _own_wish(self) -> StopWish:
        """Return this process's wish; clocks differ between machines, so it is only a vote."""
        hours = self._seconds_trained() / 3600
        if self._wish is StopWish.NONE and 0 < self._limit < hours:
            self._wish = StopWish.TIME
            logger.info("stopping: %.2f hours of training, optimization.stop_time_hours is %g", hours, self._limit)
        return self._wish
