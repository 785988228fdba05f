"""Compare the processes of a run once per log interval: which is slow, and which no longer has the others' parameters.

The processes hold the same parameters and, after the exchange, the same gradients. A bit that flips in one card's
memory, or a fault of its arithmetic, changes that; training would go on with a mean of two models.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq.dataclass.base import RunError
from fairseq.distributed import progress
from fairseq.distributed import utils as distributed
from fairseq.logging import metrics
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")

UNEVEN = 0.1  # share of the interval that the median process waits for the slowest, above which the log says so
WORSE = 0.1  # rise of that share above which it says so again
TOLERANCE = 1e-4  # relative, of gradient norms: kinds of cards add up in different orders
_HALF = 1 << 32  # a checksum has 64 bits; numbers are exchanged as float64, which is exact to 2^53
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class RanksDiffer(RunError):
    """The processes of a run no longer hold the same model; the run must not be saved."""


@torch.no_grad()
def checksums(params: Sequence[Tensor], on_host: bool = False) -> list[int]:
    """Add up the bit patterns of each tensor, exactly, modulo 2^64: any single flipped bit changes its sum.

    Waits once for the device.

    Args:
        on_host: copy the tensors to the host before, for devices that lack integers of 64 bits.
    """
    held = [(param.cpu() if on_host else param).detach() for param in params]
    sums = [tensor.view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64) for tensor in held]
    return torch.stack(sums).tolist() if sums else []


class Slow(NamedTuple):
    """The process that the others wait for in a log interval."""

    rank: int
    share: float  # of the interval that the median process waits for it


def slowest(busy: Sequence[float], elapsed: float) -> Slow:
    """Find the slowest process.

    Args:
        busy: seconds of each process in data loading and computation, without waiting for others.
        elapsed: seconds of the interval.
    """
    rank = max(range(len(busy)), key=busy.__getitem__)
    return Slow(rank, (busy[rank] - statistics.median_low(busy)) / max(elapsed, 1e-9))


def disagreement(sums: Sequence[Sequence[int]], names: Sequence[str]) -> str | None:
    """Name the first process whose checksums differ from those of most others, and its first parameter.

    Args:
        sums: of each process, one checksum for each name.
    """
    different = [i for i in range(len(names)) if len({of_rank[i] for of_rank in sums}) > 1]
    if not different:
        return None
    first = different[0]
    most_common, count = Counter(of_rank[first] for of_rank in sums).most_common(1)[0]
    others = f", and {len(different) - 1} more parameters" if len(different) > 1 else ""
    if 2 * count <= len(sums):
        ranks = ", ".join(str(rank) for rank in range(len(sums)))
        return f"ranks {ranks} have different values of {names[first]}{others}, and none of them has a majority"
    rank = next(rank for rank, of_rank in enumerate(sums) if of_rank[first] != most_common)
    return f"rank {rank} has other values of {names[first]} than most processes{others}"


class BetweenRanks:
    """The comparison of the processes at each read of the device; does nothing in a single process.

    Args:
        interval: `distributed_training.compare_ranks_interval`, updates; 0: do not compare parameters.
    """

    def __init__(self, trainer: Trainer, interval: int) -> None:
        self._trainer, self._interval = trainer, interval
        self._compared_at = trainer.get_num_updates()
        self._began = time.perf_counter()
        progress.of_this_process().busy()  # what came before does not count
        self._before: int | None = None  # the slow rank of the last interval
        self._reported = 0.0  # the largest share of waiting that was reported

    def report_slowest(self) -> None:
        """Log the slowest process of the interval since the last call (collective)."""
        if distributed.get_world_size() == 1:
            return
        elapsed, self._began = time.perf_counter() - self._began, time.perf_counter()
        busy = [numbers[0] for numbers in distributed.gather_on_host([progress.of_this_process().busy()])]
        slow = slowest(busy, elapsed)
        metrics.log_scalar("slowest_rank", slow.rank, weight=0, priority=820, round=0)
        metrics.log_scalar("rank_wait", 100 * slow.share, weight=elapsed, priority=821, round=1)
        before, self._before = self._before, slow.rank if slow.share > UNEVEN else None
        if self._before is None or self._before != before or slow.share < self._reported + WORSE:
            return  # even, or for one interval only, or known
        self._reported = slow.share
        if distributed.is_master():
            logger.warning(
                "rank %d is slow: it loaded data and computed for %.1f of the last %.1f seconds, the median process "
                "for %.1f seconds, which waited for it %.0f %% of the time. Check its machine's load, storage and "
                "clock rates.",
                slow.rank,
                busy[slow.rank],
                elapsed,
                statistics.median_low(busy),
                100 * slow.share,
            )

    def compare(self, now: bool = False) -> None:
        """Compare the processes' gradient norms and, if it is time, their parameters (collective).

        Args:
            now: compare the parameters, even if less than the interval has passed.
        Raises:
            RanksDiffer: on all processes; names a rank and, if parameters were compared, one of them.
        """
        if distributed.get_world_size() == 1:
            return
        sums = self._checksums(now)
        total = sum(i * value for i, value in enumerate(sums or [], 1)) % (_HALF * _HALF)
        norms = self._trainer.norms
        own = [len(norms), norms[-1] if norms else 0.0, total // _HALF, total % _HALF]
        by_rank = distributed.gather_on_host(own)
        problem = _of_gradients([(int(count), norm) for count, norm, *_ in by_rank])
        if sums is not None and len({tuple(numbers[2:]) for numbers in by_rank}) > 1:
            names = [name for name, _ in self._trainer.unwrapped_model.named_parameters()]
            problem = disagreement(distributed.all_gather_list(sums), names)
        if problem is not None:
            raise RanksDiffer(
                f"the processes hold different models after update {self._trainer.get_num_updates()}: {problem}. A "
                "fault of memory or of a device is likely, so this state is not saved. Check that machine, and rerun "
                "the same command to resume from the last checkpoint."
            )

    def _checksums(self, now: bool) -> list[int] | None:
        """Return the checksum of each parameter; None if it is not time, or processes hold shards."""
        updates = self._trainer.get_num_updates()
        since = updates - self._compared_at
        if not (self._interval and self._trainer.strategy.holds_all and since):
            return None
        if since < self._interval and not now:
            return None
        self._compared_at = updates
        self._trainer.compile_alarm.visit("checksums")
        # hpu: integers have 32 bits there in lazy mode, and a graph for this would have to be compiled
        return checksums(list(self._trainer.unwrapped_model.parameters()), self._trainer.device.graphs_are_static)


def _of_gradients(latest: Sequence[tuple[int, float]]) -> str | None:
    """Compare the number of finite gradient norms since the last read, and the last norm, of each process."""
    usual = statistics.mode(count for count, _ in latest)
    norm = statistics.median_low(norm for _, norm in latest)
    for rank, (count, own) in enumerate(latest):
        if count != usual or not math.isclose(own, norm, rel_tol=TOLERANCE):
            if len(latest) == 2:
                return f"ranks 0 and 1 have gradient norms of {latest[0][1]:g} and {latest[1][1]:g}"
            return f"rank {rank} has a gradient norm of {own:g}, most processes have {norm:g}"
    return None
