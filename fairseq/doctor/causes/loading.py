"""The run waits for its data."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Stretch, Windows, mean, number

# A loader that keeps up waits for less than 5 %: what the batches in advance do not cover. At 20 %, a faster loader
# makes the run a quarter faster.
WAITING = 20.0  # % of the time
SHORT_EPOCH = 30  # updates: workers start with every epoch


@cause("starved-loader")
def starved_loader(records: Records) -> Finding | None:
    """A large share of the time is spent waiting for batches."""
    windows = Windows(records)
    waiting = windows.means("data_wait")
    stretch = windows.longest(waiting >= WAITING)
    if stretch is None:
        return None
    share = mean(waiting, stretch)
    begin, end = int(windows.begin[stretch.first]), int(windows.end[stretch.last])
    faster = f"a loader that keeps up would make it {1 / (1 - min(share, 99.0) / 100):.1f} times as fast"
    why, change = _workers(records, windows, stretch)
    return Finding(
        "starved-loader",
        "warning",
        "The run waits for its data.",
        [f"It waited {share:.0f} % of the time in the updates {begin:,} to {end:,}: {faster}.", *why],
        change,
        begin,
        end,
        badness=share / WAITING,
        metric="data_wait",
    )


def _workers(records: Records, windows: Windows, stretch: Stretch) -> tuple[list[str], str]:
    """Return what is known of the loader, and what to change, the most likely first."""
    workers = number(records.setting("dataset.num_workers"))
    cores = number(records.environment.get("cores"))
    here = number(records.setting("distributed_training.nprocs_per_node")) or 1
    processes = min(here, number(records.environment.get("processes")) or here)
    why: list[str] = []
    change: list[str] = []
    spare = None if cores is None else max(1, int(cores // processes))
    if workers is not None:
        known = "" if cores is None else f" on a machine with {cores:.0f} cores"
        per = "" if processes == 1 else f" for each of {processes:.0f} processes"
        why.append(f"dataset.num_workers={workers:.0f}{per}{known}.")
    if workers == 0:
        more = "a few" if spare is None else f"{min(spare, 4)}"
        change.append(f"Set dataset.num_workers={more}: without workers, batches are made between the updates.")
    elif workers is None or spare is None or workers < spare:
        change.append(f"Raise dataset.num_workers{f', to {spare}' if spare else ''}.")
    else:
        change.append("All cores have a worker already, so what a worker does must become cheaper.")
    if workers != 0 and (updates := _updates_per_epoch(windows, stretch)) is not None and updates < SHORT_EPOCH:
        why.append(f"An epoch has {updates:.0f} updates, and workers start with every epoch.")
    if records.setting("task.resample"):
        change.append("Convert the files to task.sample_rate once instead of task.resample=true.")
    data = str(records.setting("task.data", ""))
    if records.setting("task.cache_dir") is None:
        place = f"task.data={data} is in an object store: set" if "://" in data else "For audio in an object store, set"
        change.append(f"{place} task.cache_dir to a local disk.")
    else:
        change.append("If the data is larger than task.cache_gb, raise that.")
    change.append("Many small files on a network disk read faster from archives: fairseq-pack.")
    return why, " ".join(change)


def _updates_per_epoch(windows: Windows, stretch: Stretch) -> float | None:
    """Return the mean length of the epochs in a stretch; None if it has fewer than two."""
    epochs = windows.means("epoch")[stretch.first : stretch.last + 1]
    if not np.isfinite(epochs).all() or epochs[-1] - epochs[0] < 1:
        return None
    return float((windows.end[stretch.last] - windows.end[stretch.first]) / (epochs[-1] - epochs[0]))
