"""Intervals of error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fairseq.scoring.bootstrap import bootstrap


def test_the_interval_is_that_of_a_binomial_share() -> None:
    """400 utterances of one word, a fifth of them wrong: the normal interval is 20 +- 1.96 sqrt(0.2 * 0.8 / 400)."""
    errors = [1] * 80 + [0] * 320
    found = bootstrap(errors, [1] * 400, draws=4000)
    half = 1.96 * math.sqrt(0.16 / 400) * 100
    assert found.rate == 20 and found.num_groups == 400
    assert found.low == pytest.approx(20 - half, abs=0.4) and found.high == pytest.approx(20 + half, abs=0.4)


def test_speakers_are_drawn_whole() -> None:
    """Two speakers, one always wrong and one never: of the draws a quarter each is 0 and 100 per cent."""
    found = bootstrap([1] * 50 + [0] * 50, [1] * 100, ["a"] * 50 + ["b"] * 50)
    assert (found.rate, found.low, found.high, found.num_groups) == (50, 0, 100, 2)
    assert bootstrap([1] * 50 + [0] * 50, [1] * 100).low > 35


def test_longer_utterances_count_more() -> None:
    assert bootstrap([5, 0], [10, 90]).rate == 5.0


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(0)
    errors, totals = rng.integers(0, 5, 60).tolist(), [5] * 60
    assert bootstrap(errors, totals, seed=1) == bootstrap(errors, totals, seed=1)
    assert bootstrap(errors, totals, seed=1) != bootstrap(errors, totals, seed=2)


def test_no_reference_is_no_rate() -> None:
    assert math.isnan(bootstrap([], []).rate) and math.isnan(bootstrap([1], [0]).low)
    assert bootstrap([0, 1], [0, 10]).rate == 10
