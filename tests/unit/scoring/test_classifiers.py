"""F1 and equal error rate of classifiers, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairseq.scoring.bootstrap import bootstrap, interval
from fairseq.scoring.classifiers import (
    LARGEST_LOG_ODDS,
    equal_error_rate,
    equal_error_rate_of_counts,
    log_odds,
    macro_f1,
    trial_classes,
)


def test_equal_error_rate_of_known_trials() -> None:
    scores, own = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]), np.array([0, 0, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert equal_error_rate(scores, own) == pytest.approx(0.25)  # one of four missed, one of four accepted at 0.6
    assert equal_error_rate(scores, scores > 0.5) == 0 and equal_error_rate(scores, scores < 0.5) == 1
    assert equal_error_rate(np.zeros(8), own) == pytest.approx(0.5)  # nothing is told apart
    assert np.isnan(equal_error_rate(scores, np.ones(8, dtype=bool)))


def test_equal_error_rate_is_that_of_two_gaussians() -> None:
    """Means 2 apart: the rates meet halfway, at Phi(-1) = 0.1587. Weights count trials."""
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(1, 1, 40000), rng.normal(-1, 1, 40000)])
    own = np.arange(80000) < 40000
    exact = equal_error_rate(scores, own)
    assert exact == pytest.approx(0.1587, abs=0.004)
    edges = np.linspace(-6, 6, 241)  # a histogram gives the same to the width of its bins
    counts = [np.histogram(scores[part], edges)[0] for part in (own, ~own)]
    assert equal_error_rate_of_counts(*counts) == pytest.approx(exact, abs=0.002)
    few = np.arange(0, 80000, 100)
    weights = np.random.default_rng(2).integers(0, 3, len(few))
    repeated = equal_error_rate(np.repeat(scores[few], weights), np.repeat(own[few], weights))
    assert equal_error_rate(scores[few], own[few], weights) == pytest.approx(repeated)


def test_f1_is_the_mean_over_classes_that_occur() -> None:
    # labels 0 0 1 1 2, predicted 0 1 1 1 0: F1 0.5, 0.8 and 0; a class that neither has is left out
    correct, predicted, actual = np.array([1, 2, 0, 0]), np.array([2, 3, 0, 0]), np.array([2, 2, 1, 0])
    assert macro_f1(correct, predicted, actual) == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert np.isnan(macro_f1(np.zeros(2), np.zeros(2), np.zeros(2)))


def test_log_odds_are_finite_and_in_order() -> None:
    logits = torch.tensor([[100.0, 0.0, -100.0], [0.5, 0.2, 0.1]])
    odds = log_odds(logits.log_softmax(dim=-1))
    assert odds[0].tolist() == [LARGEST_LOG_ODDS, -LARGEST_LOG_ODDS, -LARGEST_LOG_ODDS]
    p = logits[1].softmax(dim=-1)
    assert torch.allclose(odds[1], (p / (1 - p)).log(), atol=1e-5)
    # of two classes one's scores are the other's, so that only one set counts
    assert trial_classes(2) == slice(1, 2) and trial_classes(3) == slice(None)


def test_intervals_of_a_measure_are_those_of_a_rate() -> None:
    rng = np.random.default_rng(3)
    wrong, groups = rng.integers(0, 2, 60), [f"speaker{number % 6}" for number in range(60)]
    for of in (None, groups):
        expected = bootstrap(wrong.tolist(), [1] * 60, of, draws=200)
        found = interval(lambda weights: 100 * (weights @ wrong) / weights.sum(), 60, of, draws=200)
        assert found == pytest.approx((expected.low, expected.high))
    assert interval(lambda weights: 0.0, 1) is None
    assert np.isnan(interval(lambda weights: float("nan"), 5)).all()
