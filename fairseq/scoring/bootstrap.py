"""Confidence intervals of error rates, by bootstrap resampling of the test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_CELLS = 1 << 24  # drawn counts in memory at a time


class RateInterval(NamedTuple):
    """An error rate in per cent with its confidence interval."""

    rate: float
    low: float
    high: float
    num_groups: int  # number of utterances or speakers drawn from


def bootstrap(
    errors: Sequence[int],
    totals: Sequence[int],
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 1,
    level: float = 0.95,
) -> RateInterval:
    """Compute the percentile interval of errors over totals (Bisani and Ney 2004).

    Errors are correlated within a speaker, so with few speakers an interval over utterances is too narrow: draw
    speakers.

    Args:
        errors, totals: one value per utterance.
        groups: the group of each utterance, such as its speaker; groups are drawn whole. None: draw utterances.
        draws: number of test sets drawn, each with the original number of groups, with replacement.
        level: share of the draws inside the interval.
    Returns:
        The rate and its interval; NaN if all references are empty.
    """
    names, count = _numbered(len(errors), groups)
    wrong = np.bincount(names, weights=np.asarray(errors, dtype=float), minlength=count)
    total = np.bincount(names, weights=np.asarray(totals, dtype=float), minlength=count)
    if total.sum() == 0:
        return RateInterval(float("nan"), float("nan"), float("nan"), count)
    rates: list[np.ndarray] = []
    for drawn in _drawn(count, draws, seed):
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(100 * (drawn @ wrong) / (drawn @ total))
    found = np.concatenate(rates)
    low, high = np.nanpercentile(found[np.isfinite(found)], [50 * (1 - level), 50 * (1 + level)])
    return RateInterval(100 * float(wrong.sum() / total.sum()), float(low), float(high), count)


def interval(
    measure: Callable[[np.ndarray], float],
    size: int,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 1,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Compute the percentile interval of any measure; other arguments as for `bootstrap`, which draws the same sets.

    Args:
        measure: computes the value from how often each utterance counts, N.
        size: N.
    Returns:
        Low and high, NaN if no draw has a value; None for fewer than two groups.
    """
    names, count = _numbered(size, groups)
    if count < 2:
        return None
    values = np.array([measure(row[names].astype(float)) for drawn in _drawn(count, draws, seed) for row in drawn])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _numbered(size: int, groups: Sequence[str] | None) -> tuple[np.ndarray, int]:
    """Return the group of each utterance as a number, N, and the number of groups."""
    names = np.arange(size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return names, int(names.max()) + 1 if len(names) else 0


def _drawn(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn: arrays of draws x groups, of limited size."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // count)
    for first in range(0, draws, step):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(step, draws - first))
