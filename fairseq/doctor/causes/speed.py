"""The run becomes slower and slower."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, Severity, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Windows, block_medians

# A list that grows, memory that swaps or a card that heats up makes each part of the run slower than the one before.
# Other programs on the machine do that too, if more and more of them start: on the CPU, the seconds of a core that an
# update takes (`host_cpu`) must rise as well. They do not depend on other programs.
BLOCKS = 6
MIN_WINDOWS = 9  # fewer say nothing about a trend
SLOWER = 1.5  # time per second of audio, last block over first
STEP = 1.02  # the least over each of the last two steps, on average: it goes on; no block is faster than that before
LARGEST = 0.6  # share of the whole change in one step: one jump has another reason, such as another program
TREND = 0.85  # rank correlation of time and updates over the windows


@cause("throughput-falling")
def throughput_falling(records: Records) -> Finding | None:
    """The time for a second of audio rises steadily, since the last start or over all of them."""
    device = records.environment.get("device")
    last_start = max(records.starts, default=0)
    for since in dict.fromkeys((last_start, 0)):
        windows = Windows(records, since)
        if (finding := _falling(windows, device)) is not None:
            return finding
    return None


def _falling(windows: Windows, device: object) -> Finding | None:
    speed = windows.rows.values("audio_s_per_s")
    with np.errstate(divide="ignore"):
        seconds = np.where(speed > 0, 1 / speed, np.nan)  # of the clock, for a second of audio
    elsewhere = np.nan_to_num(windows.means("time_validate")) + np.nan_to_num(windows.means("time_save"))
    training = 1 - np.minimum(elsewhere, 99.0) / 100
    cost = windows.means_of(seconds) * training
    there = np.flatnonzero(np.isfinite(cost))
    core = (windows.means_of(seconds * windows.rows.values("host_cpu") / 100) * training)[there]
    may_be_cpu = device in (None, "cpu")
    has_core = bool(np.isfinite(core).all())
    if len(there) < MIN_WINDOWS:
        return None
    slower = _slower(cost[there], SLOWER)
    if slower is None or (may_be_cpu and has_core and _slower(core, SLOWER) is None):
        return None
    severity: Severity = "note" if may_be_cpu and not has_core else "warning"
    begin, end = int(windows.begin[there[0]]), int(windows.end[there[-1]])
    first, last = 1 / block_medians(cost[there], BLOCKS)[[0, -1]]
    evidence = [
        f"{first:.3g} seconds of audio per second at first, {last:.3g} at the end of the updates {begin:,} to {end:,}, "
        "without validations and saves, and no sixth of them was faster than the one before.",
        *_what_rose(windows, there),
    ]
    return Finding(
        "throughput-falling",
        severity,
        "The run becomes slower and slower.",
        evidence,
        "See which share of time rises with it. If host_gb rises, something is kept in memory from update to update, "
        "in common.user_dir or in the data set. If data_wait rises, the storage is slower or other programs use it. "
        "Otherwise check the machine's load, and temperatures and clock rates of the cards. A resumed run that is fast "
        "again points to the program, one that is not to the machine.",
        begin,
        end,
        badness=slower - 1,
        metric="audio_s_per_s",
    )


def _slower(cost: np.ndarray, least: float) -> float | None:
    """Return by what factor a cost rises, block by block; None if by less than `least`, or not steadily."""
    steps = np.diff(np.log(np.maximum(block_medians(cost, BLOCKS), 1e-12)))
    whole = float(steps.sum())
    if whole < np.log(least) or steps.min() < 0 or steps[-2:].sum() < 2 * np.log(STEP) or steps.max() > LARGEST * whole:
        return None
    return float(np.exp(whole)) if _rank_correlation(cost) >= TREND else None


def _what_rose(windows: Windows, there: np.ndarray) -> list[str]:
    """Name the columns that rose with the time of an update."""
    rose = []
    for name, unit in (("data_wait", " %"), ("time_forward", " %"), ("time_backward", " %"), ("host_gb", " GB")):
        values = windows.means(name)[there]
        if np.isfinite(values).all():
            first, last = block_medians(values, BLOCKS)[[0, -1]]
            if last > 1.2 * first and (unit != " %" or last - first >= 5):
                rose.append(f"{name} rose from {first:.1f} to {last:.1f}{unit}.")
    return rose


def _rank_correlation(values: np.ndarray) -> float:
    """Return Spearman's correlation of values with their order."""
    order = np.empty(len(values))
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return float(np.corrcoef(order, np.arange(len(values)))[0, 1])
