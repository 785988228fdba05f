"""Memory that grows until it is full."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Windows, block_medians, number

# Memory grows at the start, while caches fill and workers touch their pages, and then less and less. A leak grows on.
BLOCKS = 4
MIN_WINDOWS = 8
MUCH = 0.25  # growth after the first windows, of the memory at first
LITTLE = 0.05  # the same, where the memory will be full before the run ends
LEAST = 0.25  # GB, of both
STEADY = 0.6  # the last step over the mean step: 1 for a leak, far less for a cache that fills
CHANGE = {
    "host_gb": "Something is kept from update to update: look for lists that common.user_dir adds to, and for tensors "
    "with their graph (call .detach(), or keep numbers). Until it is found, stop and resume the run: memory is then "
    "free again.",
    "device_gb": "Look for tensors that common.user_dir keeps with their graph (call .detach()). If longer batches "
    "came late, lower dataset.max_tokens or task.max_sample_size.",
}


class _Growth(NamedTuple):
    name: str
    begin: int
    end: int
    first: float  # GB
    last: float
    per_update: float
    full_at: float | None  # update; None: the machine's memory is not known


@cause("memory-growing")
def memory_growing(records: Records) -> Finding | None:
    """The host's or the device's memory has grown steadily since the last start."""
    windows = Windows(records, max(records.starts, default=0))
    # what the host has; of a device, only the peak is known
    limits = {"host_gb": number(records.environment.get("memory_gb")), "device_gb": None}
    for name, limit in limits.items():
        growth = _growth(windows, name, limit)
        if growth is not None and _matters(growth, number(records.setting("optimization.max_update"))):
            return _finding(growth)
    return None


def _growth(windows: Windows, name: str, limit: float | None) -> _Growth | None:
    if len(windows) < MIN_WINDOWS:
        return None
    memory = windows.means(name)
    there = np.flatnonzero(np.isfinite(memory))
    there = there[len(there) // 5 :]  # the start
    if len(there) < MIN_WINDOWS * 4 // 5:
        return None
    medians = block_medians(memory[there], BLOCKS)
    steps = np.diff(medians)
    if steps.min() <= 0 or steps[-1] < STEADY * steps.mean():
        return None
    begin, end = int(windows.begin[there[0]]), int(windows.end[there[-1]])
    slope = float(np.polyfit(windows.end[there].astype(np.float64), memory[there], 1)[0])
    full_at = None if limit is None or slope <= 0 else end + max(0.0, limit - float(memory[there[-1]])) / slope
    return _Growth(name, begin, end, float(memory[there[0]]), float(memory[there[-1]]), slope, full_at)


def _matters(growth: _Growth, max_update: float | None) -> bool:
    grown = growth.last - growth.first
    is_full_before = growth.full_at is not None and max_update is not None and growth.full_at < max_update
    return grown >= LEAST and grown >= (LITTLE if is_full_before else MUCH) * growth.first


def _finding(growth: _Growth) -> Finding:
    place = "host" if growth.name == "host_gb" else "device"
    evidence = [
        f"{growth.name} rose from {growth.first:.2f} to {growth.last:.2f} in the updates {growth.begin:,} to "
        f"{growth.end:,}: {1000 * growth.per_update:.2g} GB per 1,000 updates, and it does not slow down."
    ]
    if growth.full_at is not None:
        evidence.append(f"At this rate, the memory is full at about update {growth.full_at:,.0f}.")
    return Finding(
        "memory-growing",
        "warning",
        f"The memory of the {place} grows steadily.",
        evidence,
        CHANGE[growth.name],
        growth.begin,
        growth.end,
        badness=growth.last / max(growth.first, 1e-9),
        metric=growth.name,
    )
