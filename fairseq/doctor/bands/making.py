"""Make a band from several seeds of one config."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fairseq.doctor.bands.band import HOURS_DIFFER, WINDOW, Band, curve, hours_of
from fairseq.doctor.bands.identity import differences, identity
from fairseq.doctor.records import EPOCH, INTERVAL, Records

FEWEST = 3
POINTS = 16  # at most
# (name, a larger value is better), the first that all runs have
METRICS = (("accuracy", True), ("uer", False), ("loss", False))
LAG = 0.1  # of the updates by which another seed may be earlier or later: the spread at an update does not show it
# Student's t, 99.5 %, by degrees of freedom
T = {2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 6: 3.707, 7: 3.499, 8: 3.355, 9: 3.250, 14: 2.977, 19: 2.861, 29: 2.756}
LEFT = 2.0  # times its first value: a run's metric has left the plateau
SPREAD = 0.25  # of the updates between the first and the last seed that leave it: chance decides


def limit(seeds: int) -> float:
    """Deviations from the mean of n seeds that another seed stays within, with a probability of 99 %.

    Source: prediction interval of a normal distribution, t(n - 1) sqrt(1 + 1/n).
    """
    freedom = max(key for key in T if key < seeds)
    return T[freedom] * math.sqrt(1 + 1 / seeds)


def make(name: str, runs: Sequence[tuple[str, Records]], source: str, version: int = 1) -> Band:
    """Make a band of runs that differ in their seed only.

    Args:
        name: letters, digits, - and _.
        runs: name and records of each.
        source: where the runs come from.
    Raises:
        ValueError: the runs do not make a band; the message says why.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"--add-band {name!r} is not a name of a band. Use letters, digits, - and _.")
    _check(runs)
    records = [record for _, record in runs]
    metric, higher = next(
        ((name, higher) for name, higher in METRICS if all(run.training.has(name) for run in records)), ("", True)
    )
    if not metric:
        raise ValueError(f"the runs have none of these columns in common: {', '.join(name for name, _ in METRICS)}.")
    first = max(int(run.training.updates[0]) for run in records)
    last = min(int(run.training.updates[-1]) for run in records)
    if last <= first:
        raise ValueError(f"the runs have no updates in common. {_spans(runs)}")
    curves = [curve(run.training, metric, WINDOW * (last - first)) for run in records]
    grid = np.unique(np.linspace(first, last, POINTS).round()).astype(int)
    values = np.stack([np.interp(grid, *points) for points in curves])
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    reach = limit(len(runs)) * deviation
    low, high = np.maximum(mean - reach, min(0.0, values.min())), mean + reach  # none of the metrics is below 0
    near = np.abs(grid[:, None] - grid) <= LAG * (last - first)
    low, high = np.where(near, low, np.inf).min(1), np.where(near, high, -np.inf).max(1)
    statistic = (
        f"mean and {limit(len(runs)):.2f} deviations: 99 of 100 other seeds at an update, if they are normal; up to "
        f"{LAG:.0%} of the updates earlier or later"
    )
    said = _left_by_chance(grid, values) if metric == "accuracy" else None
    if said is not None:
        low, high = np.minimum(values.min(0), 0.8 * values[:, 0].min()), np.maximum(high, values.max(0))
        statistic = f"{said}; so the limits reach down to the plateau"
    return Band(
        name,
        version,
        source,
        statistic,
        len(runs),
        metric,
        INTERVAL,
        higher,
        said is not None,
        _audio_of(records),
        identity(records[0].config),
        [int(update) for update in grid],
        *([round(float(value), 5) for value in line] for line in (mean, deviation, low, high)),
    )


def _check(runs: Sequence[tuple[str, Records]]) -> None:
    if len(runs) < FEWEST:
        raise ValueError(f"a band takes at least {FEWEST} runs with different seeds; these are {len(runs)}.")
    for name, run in runs:
        if not run.config:
            raise ValueError(f"{name} has no config: a band cannot be recognised without it.")
        if not len(run.training):
            raise ValueError(f"{name} has no rows of training.")
    name, first = runs[0]
    seeds = [run.setting("common.seed") for _, run in runs]
    if len(set(map(str, seeds))) < len(seeds):
        raise ValueError(
            f"the seeds of these runs are {', '.join(map(str, seeds))}; each run needs its own common.seed."
        )
    for other, run in runs[1:]:
        keys = differences(identity(first.config), run.config)
        if keys:
            raise ValueError(f"{other} differs from {name} in more than its seed: {', '.join(keys)}.")


def _audio_of(records: Sequence[Records]) -> float | None:
    """Hours of audio in an epoch, as all runs say it; None if they do not, or differ."""
    hours = [hours_of(run.config, run.data) or _epoch_of(run) for run in records]
    known = [each for each in hours if each is not None]
    agree = len(known) == len(hours) and max(known) <= (1 + HOURS_DIFFER) * min(known)
    return round(float(np.mean(known)), 5) if agree else None


def _epoch_of(run: Records) -> float | None:
    """Hours of audio in an epoch, from the rows of epochs of a run that has no run.jsonl."""
    epochs = run.rows(EPOCH)
    if len(epochs) < 2 or not epochs.has("audio_s_per_update"):
        return None
    updates = float(np.median(np.diff(epochs.updates)))
    return updates * float(np.nanmedian(epochs.values("audio_s_per_update"))) / 3600


def _spans(runs: Sequence[tuple[str, Records]]) -> str:
    parts = [f"{name}: {run.training.updates[0]:,} to {run.training.updates[-1]:,}" for name, run in runs]
    return f"Their updates: {'; '.join(parts)}."


def _left_by_chance(grid: np.ndarray, values: np.ndarray) -> str | None:
    """Say when the seeds left the plateau, if that differs so much that chance decides; None if it does not."""
    left = [next((int(at) for at, now in zip(grid, run, strict=True) if now > LEFT * run[0]), None) for run in values]
    known = [at for at in left if at is not None]
    if not known or (len(known) == len(left) and max(known) - min(known) <= SPREAD * (grid[-1] - grid[0])):
        return None
    latest = "never" if len(known) < len(left) else f"update {max(known):,}"
    return f"the {len(left)} seeds left the plateau between update {min(known):,} and {latest}"


def save(band: Band, folder: Path) -> Path:
    """Write a band as a file; one of its name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{band.name}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(as_text(band), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def as_text(band: Band) -> str:
    """JSON with one key per line, and one config value per line."""
    lines = []
    for key, value in band._asdict().items():
        text = json.dumps(value)
        if key == "config":
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(item)}" for name, item in band.config.items())
            text = "{\n" + inner + "\n  }"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
