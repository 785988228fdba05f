"""Trends in noisy columns, by statistics that a few odd rows do not move."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.doctor.records import Rows

_PAST = 50  # rows that a drift is compared with, at most
_FEWEST = 8  # at least
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
        place = int(np.searchsorted(self.updates, update, side="right")) - 1
        return float(self.values[place]) if place >= 0 else float("nan")


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

    Each row is compared with the median and the spread of up to 50 rows before the rise.

    Args:
        values: N, above 0.
    """
    logs = np.log(np.maximum(values, 1e-30))
    total, begin, found = 0.0, _FEWEST, False
    for place in range(_FEWEST, len(logs)):
        if total == 0.0:
            begin = place
        past = logs[max(0, begin - _PAST) : begin]
        middle = float(np.median(past))
        spread = max(0.05, 1.4826 * float(np.median(np.abs(past - middle))))
        total = max(0.0, total + min(_STEP, (logs[place] - middle) / spread) - _SLACK)
        total = min(total, 2 * _LIMIT)  # so that the end of a rise is seen soon
        found = total > _LIMIT
    if not found:
        return None
    level = float(np.exp(np.median(logs[max(0, begin - _PAST) : begin])))
    return Drift(begin, float(np.median(values[-3:])) / level, level)
