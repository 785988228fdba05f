"""Curves for plots: put several over one axis, smooth them, and thin them so that their shape stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

POINTS = 2000  # of a plot, after thinning


class Curve(NamedTuple):
    """A curve: x ascending without repetition, N; y, N, NaN where there is no value."""

    x: np.ndarray
    y: np.ndarray


def align(curves: Mapping[str, Curve]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Put curves over one axis.

    Returns:
        the union of their x, ascending, N; and the values of each, N, NaN where a curve has none.
    """
    axes = [np.asarray(curve.x) for curve in curves.values()]
    if not axes:
        return np.zeros(0), {}
    x = np.sort(np.concatenate(axes), kind="stable")  # fast for parts that are sorted, unlike np.unique
    x = x[np.append(True, x[1:] != x[:-1])]
    columns = {}
    for name, curve in curves.items():
        if len(curve.x) == len(x):
            columns[name] = np.asarray(curve.y, dtype=np.float64)
            continue
        columns[name] = np.full(len(x), np.nan)
        columns[name][np.searchsorted(x, curve.x)] = curve.y
    return x, columns


def thin(columns: Sequence[np.ndarray], points: int = POINTS) -> np.ndarray:
    """Choose the points of long curves that keep their shape: of each stretch its smallest and its largest value.

    Args:
        columns: values over one axis, N each; points that are NaN in all columns are left out.
        points: at most about this many remain, in all.
    Returns:
        The positions that remain, ascending, int64.
    """
    chosen = [np.zeros(0, dtype=np.int64)]
    order = sorted(range(len(columns)), key=lambda i: int(np.isfinite(columns[i]).sum()))
    for rank, i in enumerate(order):  # short curves first: the long ones may have what those leave
        share = max(2, points // (len(order) - rank))
        kept = _extremes(columns[i], share)
        points -= len(kept)
        chosen.append(kept)
    return np.unique(np.concatenate(chosen))


def _extremes(y: np.ndarray, points: int) -> np.ndarray:
    where = np.flatnonzero(np.isfinite(y))
    if len(where) <= points:
        return where
    y = y[where]
    length = -(-len(y) // max(1, points // 2))  # of a stretch
    whole = len(y) - len(y) % length
    stretches = y[:whole].reshape(-1, length)
    begins = np.arange(len(stretches)) * length
    extremes = [begins + stretches.argmin(axis=1), begins + stretches.argmax(axis=1), np.asarray([0, len(y) - 1])]
    if whole < len(y):
        extremes.append(whole + np.asarray([y[whole:].argmin(), y[whole:].argmax()]))
    return where[np.unique(np.concatenate(extremes))]


def smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Return the centred mean of a curve over `width` points, fewer at its ends; NaN are left out of the means.

    Args:
        y: N.
    Returns:
        N; NaN where y is.
    """
    finite = np.isfinite(y)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(y))
    half = np.minimum(np.minimum(places, places[::-1]), max(0, width // 2))
    begin, end = places - half, places + half + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[end] - total[begin]) / (count[end] - count[begin])
    return np.where(finite, mean, np.nan)


def means(x: np.ndarray, columns: Sequence[np.ndarray], points: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Thin columns to their means over stretches, for plots whose columns add up to something.

    Args:
        x: N; columns: N each, without NaN.
        points: at most this many remain.
    Returns:
        The last x of each stretch, and the means.
    """
    if len(x) <= points:
        return x, list(columns)
    begins = np.linspace(0, len(x), points + 1).astype(np.int64)[:-1]
    lengths = np.diff(np.append(begins, len(x)))
    return x[begins + lengths - 1], [np.add.reduceat(column, begins) / lengths for column in columns]
