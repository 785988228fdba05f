"""How sure an error rate is: intervals by drawing the test set anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CELLS = 1 << 24  # drawn counts held at a time


class RateInterval(NamedTuple):
    """An error rate in per cent, and where it lies."""

    rate: float
    low: float
    high: float
    num_groups: int  # what was drawn: utterances, or speakers


def bootstrap(
    errors: Sequence[int],
    totals: Sequence[int],
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 1,
    level: float = 0.95,
) -> RateInterval:
    """Percentile interval of errors over totals (Bisani and Ney 2004).

    Utterances of one speaker err alike, so that drawing utterances makes the interval too narrow where speakers are
    few: draw speakers.

    Args:
        errors, totals: of each utterance.
        groups: which group each utterance belongs to, its speaker; groups are drawn whole. None draws utterances.
        draws: test sets drawn, each of as many groups as there are, with replacement.
        level: share of the draws inside of the interval.
    Returns:
        Not-a-number where there is no reference at all.
    """
    names = np.arange(len(errors)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(names.max()) + 1 if len(names) else 0
    wrong = np.bincount(names, weights=np.asarray(errors, dtype=float), minlength=count)
    total = np.bincount(names, weights=np.asarray(totals, dtype=float), minlength=count)
    if total.sum() == 0:
        return RateInterval(float("nan"), float("nan"), float("nan"), count)
    rng = np.random.default_rng(seed)
    rates: list[np.ndarray] = []
    step = max(1, _CELLS // count)
    for first in range(0, draws, step):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(step, draws - first))
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(100 * (drawn @ wrong) / (drawn @ total))
    found = np.concatenate(rates)
    low, high = np.nanpercentile(found[np.isfinite(found)], [50 * (1 - level), 50 * (1 + level)])
    return RateInterval(100 * float(wrong.sum() / total.sum()), float(low), float(high), count)
