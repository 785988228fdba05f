"""Graphs that are still compiled late in a run, and operators that run on the host (HPU and lazy devices)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.doctor.findings import Finding, Severity, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import MIN_UPDATES, Windows, number

LATE = 0.5  # share of the run since its start: all shapes and kinds of steps were there before
MIN_WINDOWS = 4  # of the late part
# A shape that comes late costs a few graphs once. Something that changes with each update compiles again and again.
OFTEN = 0.5  # share of the windows in which the count rose
GRAPHS_PER_UPDATE = 0.002  # a graph of a whole step compiles for 10 s or more: 1 in 500 updates costs a few percent
FALLBACKS_PER_UPDATE = 0.5  # at least every other update waits for the host


class _Rise(NamedTuple):
    begin: int
    end: int
    total: float
    per_update: float
    often: float  # share of the windows in which it rose


def _late_rise(records: Records, name: str) -> _Rise | None:
    """Return how a count since the process's start rises in the second half since the last start."""
    windows = Windows(records, max(records.starts, default=0))
    counts = windows.means(name)
    there = np.flatnonzero(np.isfinite(counts))
    if len(there) < 2 * MIN_WINDOWS:
        return None
    late = there[int(len(there) * LATE) :]
    new = np.diff(counts[late])
    begin, end = int(windows.end[late[0]]), int(windows.end[late[-1]])
    if end - begin < MIN_UPDATES / 2 or new.min() < 0:
        return None
    total = float(new.sum())
    return _Rise(begin, end, total, total / (end - begin), float((new > 0).mean()))


@cause("recompiling")
def recompiling(records: Records) -> Finding | None:
    """Graphs are compiled again and again in the second half of a run."""
    rise = _late_rise(records, "graphs")
    if rise is None or rise.total <= 0 or rise.often < OFTEN:
        return None
    severity: Severity = "warning" if rise.per_update >= GRAPHS_PER_UPDATE else "note"
    buckets = number(records.setting("task.num_batch_buckets"))
    shapes = (
        "Set task.enable_padding=true task.num_batch_buckets=7, so that batches have few shapes. "
        if buckets == 0
        else ""
    )
    return Finding(
        "recompiling",
        severity,
        "The device still compiles graphs.",
        [
            f"{rise.total:.0f} graphs were compiled in the updates {rise.begin:,} to {rise.end:,}, "
            f"{rise.per_update:.3g} per update. By then, every shape should have its graphs.",
            *([f"task.num_batch_buckets={buckets:.0f}."] if buckets is not None else []),
        ],
        f"{shapes}Run fairseq-preflight with the same arguments: it finds the line that changes from update to update.",
        rise.begin,
        rise.end,
        badness=max(rise.per_update / GRAPHS_PER_UPDATE, 0.1),
        metric="graphs",
    )


@cause("cpu-fallbacks")
def cpu_fallbacks(records: Records) -> Finding | None:
    """Operators run on the host, in most updates."""
    rise = _late_rise(records, "cpu_fallbacks")
    if rise is None or rise.total <= 0 or rise.often < OFTEN:
        return None
    severity: Severity = "warning" if rise.per_update >= FALLBACKS_PER_UPDATE else "note"
    return Finding(
        "cpu-fallbacks",
        severity,
        "Operators run on the host instead of the device.",
        [
            f"{rise.total:.0f} in the updates {rise.begin:,} to {rise.end:,}, {rise.per_update:.2f} per update. Each "
            "waits for the device, and copies there and back."
        ],
        "Run fairseq-preflight with the same arguments: it names the operators and the lines that call them. With "
        "PT_HPU_LAZY_MODE=1, the device's log names them too.",
        rise.begin,
        rise.end,
        badness=max(rise.per_update / FALLBACKS_PER_UPDATE, 0.1),
        metric="cpu_fallbacks",
    )
