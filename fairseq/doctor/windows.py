"""Means over windows of updates, and stretches of a run: what causes look at instead of single rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.doctor.records import Records, Rows

SHORTEST = 20  # updates of a window: a single update says little
MOST = 500  # windows of a run, however long it is, so that causes cost the same
MIN_WINDOWS, MIN_UPDATES = 4, 80  # of a stretch that is worth a finding


class Stretch(NamedTuple):
    """Consecutive windows, from `first` to `last`, both included."""

    first: int
    last: int


class Windows:
    """The training rows in windows of several updates each.

    Rows that cover the first updates after a start are left out: workers start, graphs are compiled, and the first
    speed is logged as 0.

    Args:
        records: the run's records.
        since: leave out rows that cover updates before this one.
    """

    def __init__(self, records: Records, since: int = 0) -> None:
        self.rows: Rows = records.training
        updates = self.rows.updates
        before = np.concatenate([[0], updates[:-1]]) if len(updates) else updates
        starts = np.asarray(sorted({0, *records.starts}), dtype=np.int64)
        starts_within = np.searchsorted(starts, updates) - np.searchsorted(starts, before)
        self._used = (starts_within <= 0) & (before >= since) & (updates > before)
        begin, end = before[self._used], updates[self._used]
        span = max(SHORTEST, int(np.ceil((int(end[-1]) - int(begin[0])) / MOST))) if len(end) else SHORTEST
        number = (end - 1 - begin[0]) // span if len(end) else end
        self._first = np.flatnonzero(np.diff(number, prepend=-1))  # row of each window
        last = np.append(self._first[1:], len(number)) - 1 if len(number) else self._first
        self._weights = (end - begin).astype(np.float64)
        self.begin = begin[self._first] + 1  # first update of each window, W, int64
        self.end = end[last]  # last update of each window, W, int64

    def __len__(self) -> int:
        return len(self.end)

    def means(self, name: str) -> np.ndarray:
        """Return a column's mean over the updates of each window, W, float64; NaN where no row has a finite number."""
        return self.means_of(self.rows.values(name))

    def means_of(self, values: np.ndarray) -> np.ndarray:
        """Return the means of a number per row, N."""
        used = values[self._used]
        there = np.isfinite(used)
        weights = np.where(there, self._weights, 0.0)
        return self._divide(self._add(np.where(there, used, 0.0) * weights), self._add(weights))

    def sums_of(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of a number per row, N."""
        return self._add(np.nan_to_num(values[self._used]))

    def _add(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._first) if len(self._first) else np.zeros(0)

    @staticmethod
    def _divide(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)

    def longest(self, shows: np.ndarray, share: float = 0.8) -> Stretch | None:
        """Find the longest stretch that shows something in at least `share` of its windows.

        Args:
            shows: bool, W; False where the value is not known.
        Returns:
            The latest of the longest ones; None if it is too short to matter: fewer than 4 windows, than 80 updates or
            than 5 % of the run.
        """
        if not shows.any():
            return None
        # the sum of `shows - share` over a stretch is 0 or more: compare each prefix sum with the lowest one before it
        sums = np.concatenate([[0.0], np.cumsum(np.where(shows, 1.0 - share, -share))])
        lowest = np.minimum.accumulate(sums)
        begins = np.searchsorted(-lowest, -(sums + 1e-9))
        lengths = np.arange(len(sums)) - begins
        stop = len(lengths) - 1 - int(np.argmax(lengths[::-1]))
        inside = np.flatnonzero(shows[begins[stop] : stop])
        if not len(inside):
            return None
        first, last = int(begins[stop]) + int(inside[0]), int(begins[stop]) + int(inside[-1])
        updates = int(self.end[last] - self.begin[first]) + 1
        least = max(MIN_UPDATES, 0.05 * float(self.end[-1]))
        return Stretch(first, last) if last - first + 1 >= MIN_WINDOWS and updates >= least else None


def mean(values: np.ndarray, stretch: Stretch) -> float:
    """Return the mean of the finite values in a stretch; NaN if there are none."""
    inside = values[stretch.first : stretch.last + 1]
    inside = inside[np.isfinite(inside)]
    return float(inside.mean()) if len(inside) else float("nan")


def block_medians(values: np.ndarray, blocks: int) -> np.ndarray:
    """Return the median of each of `blocks` parts of equal size, in order."""
    return np.asarray([np.median(part) for part in np.array_split(values, blocks)])


def number(value: object) -> float | None:
    """Return a setting or a fact as a number; None if it is not one."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
