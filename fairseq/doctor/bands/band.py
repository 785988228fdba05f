"""A band: the mean curve of several seeds of one config, and the limits within which another seed is expected."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fairseq.doctor.bands.identity import differences
from fairseq.doctor.records import INTERVAL, Records, Rows
from fairseq.logging.metrics_file import Json

OWN = "FAIRSEQ_BANDS"  # environment variable: the folder of your own bands
PACKAGED = Path(__file__).parent
HOURS_DIFFER = 0.1  # share by which another set of training data differs in length
POINTS = 2  # rows in a row that must be outside: one may be chance
WINDOW = 0.05  # of the band's updates: rows of training are averaged over it


class Place(NamedTuple):
    """Where a run lies.

    Args:
        where: worse or better: outside of the limits; early: before the band's first update.
        since: the update since which it is outside.
        update, value: the last one compared.
        low, high: the limits there.
    """

    where: Literal["inside", "worse", "better", "early"]
    since: int = 0
    update: int = 0
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


class Band(NamedTuple):
    """A reference curve with its spread.

    Args:
        config: the values that identify it; see `fairseq.doctor.bands.identity`.
        hours: of audio in an epoch of training; None: any.
        metric, split: the column, and the rows it is taken from: INTERVAL, or "valid": the first validation set, where
            there is one.
        updates, mean, deviation, low, high: N each; low and high are the limits for another seed.
        by_chance: when runs leave the plateau is chance, so the limits reach down to the plateau.
        statistic: in words, how low and high were found.
    """

    name: str
    version: int
    source: str
    statistic: str
    seeds: int
    metric: str
    split: str
    higher_is_better: bool
    by_chance: bool
    hours: float | None
    config: Mapping[str, Json]
    updates: Sequence[int]
    mean: Sequence[float]
    deviation: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def rows(self, records: Records) -> Rows:
        """The rows of a run that this band is compared with."""
        if self.split == INTERVAL:
            return records.training
        return next((rows for rows in records.validation.values() if rows.has(self.metric)), records.training)

    def place(self, rows: Rows) -> Place:
        """Compare a run's rows with the limits. It is outside when its last two rows are."""
        updates, values = curve(rows, self.metric, WINDOW * (self.updates[-1] - self.updates[0]))
        within = (updates >= self.updates[0]) & (updates <= self.updates[-1])
        if not within.any():
            return Place("early")
        updates, values = updates[within], values[within]
        low = np.interp(updates, self.updates, self.low)
        high = np.interp(updates, self.updates, self.high)
        last = int(updates[-1]), float(values[-1]), float(low[-1]), float(high[-1])
        for is_outside, where in ((values < low, "worse"), (values > high, "better")):
            inside = np.flatnonzero(~is_outside)
            begin = int(inside[-1]) + 1 if len(inside) else 0
            if len(values) - begin >= POINTS:
                side: Literal["worse", "better"] = where if self.higher_is_better else _other(where)  # type: ignore[assignment]
                return Place(side, int(updates[begin]), *last)
        return Place("inside", 0, *last)

    def say(self, place: Place) -> str:
        """A sentence about a run's place."""
        if place.where == "early":
            return f"band {self.name}: begins at update {self.updates[0]:,}"
        limits = f"{self.metric} {place.value:.3f} at update {place.update:,}, band {place.low:.3f} to {place.high:.3f}"
        if place.where == "inside":
            return f"inside the band {self.name}: {limits}"
        side = "below" if (place.where == "worse") == self.higher_is_better else "above"
        return f"{side} the band {self.name} since update {place.since:,}: {limits}"


def _other(side: str) -> str:
    return "better" if side == "worse" else "worse"


def curve(rows: Rows, metric: str, window: float) -> tuple[np.ndarray, np.ndarray]:
    """Return updates and values of the rows that have the metric; each is the mean over the last `window` updates."""
    values, updates = rows.values(metric), rows.updates
    known = np.isfinite(values)
    values, updates = values[known], updates[known]
    first = np.searchsorted(updates, updates - window, side="right")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    first = np.minimum(first, ends - 1)
    return updates, (sums[ends] - sums[first]) / (ends - first)


def own_folder() -> Path:
    """The folder of your own bands: FAIRSEQ_BANDS, or fairseq/bands in the user's folder of settings."""
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get(OWN) or Path(settings) / "fairseq" / "bands")


def known() -> list[Band]:
    """All bands, your own first; files that cannot be read are left out."""
    found = []
    for folder in (own_folder(), PACKAGED):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            band = _read(path, path.stat().st_mtime_ns)
            if band is not None:
                found.append(band)
    return found


@cache
def _read(path: Path, changed: int) -> Band | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Band(**values)
    except (OSError, ValueError, TypeError):
        return None


def band_of(config: Mapping[str, Json], data: Mapping[str, Json] | None = None) -> Band | None:
    """Return the band of a config; None if there isn't one.

    Args:
        config: a run's, group by group.
        data: as in `Records`: with hours of training, a band of other data does not match.
    """
    hours = hours_of(config, data or {})
    for band in known() if config else []:
        other_data = hours is not None and band.hours is not None and abs(hours / band.hours - 1) > HOURS_DIFFER
        if not other_data and not differences(band.config, config):
            return band
    return None


def hours_of(config: Mapping[str, Json], data: Mapping[str, Json]) -> float | None:
    """Return the hours of training data in an epoch, as run.jsonl says; None if it does not."""
    training = data.get(str(Records(config=config).setting("dataset.train_subset", "train")))
    hours = training.get("hours") if isinstance(training, dict) else None
    return float(hours) if isinstance(hours, (int, float)) else None
