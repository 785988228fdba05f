"""Processes that wait for the slowest one."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Windows, mean

# Lengths differ between the processes' batches, so each log interval has a slowest one; over an interval it averages
# out. One slow machine does not.
ONE_RANK = 10.0  # % of the time that the median process waits for one and the same process
SAME = 0.9  # share of that waiting: with two even processes, chance gives 8 of 8 lines in 1 of 128 cases
MIN_ROWS = 8
IN_TURNS = 25.0  # % of the time, if the slowest process changes


@cause("uneven-ranks")
def uneven_ranks(records: Records) -> Finding | None:
    """The processes wait for a slow one, always the same or in turns."""
    windows = Windows(records)
    waiting = windows.means("rank_wait")
    stretch = windows.longest(waiting >= ONE_RANK)
    if stretch is None:
        return None
    begin, end = int(windows.begin[stretch.first]), int(windows.end[stretch.last])
    rows = records.training
    wait, rank = rows.values("rank_wait"), rows.values("slowest_rank")
    inside = (rows.updates >= begin) & (rows.updates <= end) & np.isfinite(wait) & np.isfinite(rank)
    weights = np.bincount(rank[inside].astype(np.int64), weights=np.maximum(wait[inside], 0.0))
    if int(inside.sum()) < MIN_ROWS or not weights.sum() > 0:
        return None
    slowest, share = int(np.argmax(weights)), mean(waiting, stretch)
    its_part = float(weights[slowest] / weights.sum())
    evidence = [f"The median process waited {share:.0f} % of the time in the updates {begin:,} to {end:,}."]
    if its_part >= SAME:
        return Finding(
            "uneven-ranks",
            "warning",
            f"Rank {slowest} is slow, and the other processes wait for it.",
            [*evidence, f"{100 * its_part:.0f} % of this waiting was for rank {slowest}."],
            f"Check the machine of rank {slowest}: other programs, storage, temperature and clock rates of its card. "
            "If it stays slow, leave it out.",
            begin,
            end,
            badness=share / ONE_RANK,
            metric="rank_wait",
        )
    if share < IN_TURNS:
        return None
    return Finding(
        "uneven-ranks",
        "warning",
        "The processes wait for each other, in turns.",
        [*evidence, f"Rank {slowest} was the slowest most often, with {100 * its_part:.0f} % of this waiting."],
        "Batches differ in length between the processes, or all of them read from a slow disk. Set "
        "task.enable_padding=true task.num_batch_buckets=7, so that all have equal shapes in a step; data_wait shows "
        "whether it is the disk.",
        begin,
        end,
        badness=share / IN_TURNS,
        metric="rank_wait",
    )
