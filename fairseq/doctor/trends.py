"""Trends in noisy columns, by statistics that a few odd rows do not move."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from fairseq.doctor.records import Rows

_PAST = 50  # rows that a drift is compared with, at most
_FEWEST = 8  # at least
_NEWEST = 5000  # rows that are looked at
_STEP = 3.0  # deviations that one row may add: a single spike is no drift
_SLACK = 1.0  # deviations that are taken off each row
_LIMIT = 10.0  # a drift, in deviations: at least five rows above the rest


class Series(NamedTuple):
    """A column without the rows that lack it."""

    updates: np.ndarray  # N, int64
    values: np.ndarray  # N, float64, finite

    def after(self, update: int) -> Series:
        """Return the rows after this update."""
        kept = self.updates > update
        return Series(self.updates[kept], self.values[kept])

    def at(self, update: int) -> float:
        """Return the value of the last row that is not after this update; NaN if there is none."""
        return float(self.beside(np.array([update]))[0])

    def beside(self, updates: np.ndarray) -> np.ndarray:
        """Return `at` of each update, M."""
        values = np.concatenate([[np.nan], self.values])
        return values[np.searchsorted(self.updates, updates, side="right")]


def series(rows: Rows, name: str) -> Series:
    """Return the finite values of a column."""
    values = rows.values(name)
    kept = np.isfinite(values)
    return Series(rows.updates[kept], values[kept])


def smooth(values: np.ndarray, span: int = 3) -> np.ndarray:
    """Return the median of each value and those before it, `span` in all; N."""
    if len(values) == 0:
        return values
    padded = np.concatenate([np.full(span - 1, values[0]), values])
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, span), axis=1)


def since(holds: np.ndarray) -> int | None:
    """Return the first place of the unbroken stretch of true values at the end; None if the last is false."""
    if len(holds) == 0 or not holds[-1]:
        return None
    false = np.flatnonzero(~holds)
    return int(false[-1]) + 1 if len(false) else 0


class Drift(NamedTuple):
    """A rise that has not ended."""

    begin: int  # place of its first row
    factor: float  # the last rows over the level before
    level: float  # before it


def drift(values: np.ndarray) -> Drift | None:
    """Find a lasting rise at the end of a positive column, by a cumulative sum of logarithms (Page 1954).

    Each row is compared with the median and the spread of up to 50 rows before the rise. Of a long run, the newest
    5,000 rows are looked at: a rise that began before them was seen at its time.

    Args:
        values: N, above 0.
    """
    skipped = max(0, len(values) - _NEWEST)
    logs = np.log(np.maximum(values[skipped:], 1e-30))
    if len(logs) <= _FEWEST:
        return None
    middles, spreads = _levels(logs)
    total, begin = 0.0, 0
    for place in range(_FEWEST, len(logs)):
        if total == 0.0:
            begin = place
        deviation = (logs[place] - middles[begin]) / spreads[begin]
        total = min(max(0.0, total + min(_STEP, deviation) - _SLACK), 2 * _LIMIT)  # so that a rise's end is seen soon
    if total < _LIMIT:
        return None
    level = float(np.exp(middles[begin]))
    return Drift(skipped + begin, float(np.median(values[-3:])) / level, level)


def _levels(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and spread of up to 50 values before each one, N; those of the first 8 are not to be used."""
    padded = np.concatenate([np.full(_PAST, np.nan), logs])[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, _PAST)  # N x 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the first window is empty
        middles = np.nanmedian(windows, axis=1)
        spreads = 1.4826 * np.nanmedian(np.abs(windows - middles[:, None]), axis=1)
        steps = 1.4826 * np.nanmedian(np.abs(np.diff(windows, axis=1)), axis=1)
    # a column that falls steeply at the start of a run has a wide spread, but small steps
    return middles, np.maximum(0.05, np.fmin(spreads, steps))
