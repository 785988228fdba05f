"""Scores of classifiers: F1 and equal error rate. Letters: N utterances, K classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST_LOG_ODDS = 20.0  # probabilities closer to 0 or 1 than 2e-9 count as this


def log_odds(log_probs: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of each class, within LARGEST_LOG_ODDS.

    Args:
        log_probs: log-probabilities over the last dimension.
    """
    rest = (-torch.expm1(log_probs.float())).clamp(min=1e-30).log()
    return (log_probs.float() - rest).clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)


def trial_classes(num_classes: int) -> slice:
    """Return the classes whose scores are trials of the equal error rate.

    Of two classes only the second counts: the first one's scores are the same with the other sign, and pooling both
    would fix the threshold at equal odds.
    """
    return slice(1, 2) if num_classes == 2 else slice(None)


def equal_error_rate(scores: np.ndarray, own: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the rate at which as many target trials are missed as other trials are accepted, from 0 to 1.

    Args:
        scores: of each trial; higher means more likely a target.
        own: bool, whether a trial is a target.
        weights: how often each trial counts; None: once.
    Returns:
        NaN without targets or without other trials.
    """
    places = np.unique(scores, return_inverse=True)[1].reshape(-1)
    weights = np.ones(len(places)) if weights is None else weights
    return equal_error_rate_of_counts(
        np.bincount(places, weights=weights * own), np.bincount(places, weights=weights * ~own)
    )


def equal_error_rate_of_counts(targets: np.ndarray, others: np.ndarray) -> float:
    """Return the equal error rate of trials that are counted by their score.

    Between two neighbouring scores both rates change linearly, so the result is a point of the line between two
    operating points.

    Args:
        targets, others: number of trials at each score, lowest first.
    """
    if targets.sum() <= 0 or others.sum() <= 0:
        return float("nan")
    missed = np.concatenate([[0.0], np.cumsum(targets) / targets.sum()])
    accepted = np.concatenate([[1.0], 1 - np.cumsum(others) / others.sum()])
    difference = missed - accepted  # from -1 to 1, never falling
    after = int(np.argmax(difference >= 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(missed[before] + share * (missed[after] - missed[before]))


def macro_f1(correct: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the mean of the classes' F1, from 0 to 1, over the classes that occur or are predicted.

    Args:
        correct, predicted, actual: number of utterances of each class, K; may be weighted.
    Returns:
        NaN without utterances.
    """
    whole = predicted + actual
    present = whole > 0
    return float(np.mean(2 * correct[present] / whole[present])) if present.any() else float("nan")
