"""Sums and metrics of each corpus of `task.multi_corpus_keys`, such as `german_loss`. Letters: B rows, K corpora.

Sums are vectors of length K on the device: rows are added up by a product with a B x K matrix that the data-loading
worker made, so shapes are static and nothing waits for the device (decisions 1 and 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fairseq.data.batch import Batch
from fairseq.dataclass.values import corpus_metric
from fairseq.logging import metrics
from fairseq.scoring.greedy_scorer import Rate, summed

PREFIX = "corpus_"
# metric: (numerator, denominator, factor)
_SHARES = {
    "accuracy": ("correct", "count", 1.0),
    "uer": ("c_errors", "c_total", 100.0),
    "wer": ("w_errors", "w_total", 100.0),
}


def metric_names(corpora: Sequence[str]) -> list[str]:
    """Return the names of corpora as metrics start with them: also valid in file names."""
    return [corpus_metric(name) for name in corpora]


def sums(membership: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add up values of rows by corpus, on the device.

    Args:
        membership: float32, B x K: 1 where a row that counts belongs to a corpus; see `Batch`.
        rows: by name: a value of each row, B.
    Returns:
        by name with PREFIX: the sums, K.
    """
    return {PREFIX + name: membership.t() @ value.detach().float() for name, value in rows.items()}


def counted(sample: Batch) -> dict[str, float]:
    """Return a batch's utterances and samples of each corpus, as numbers on the host; empty without corpora."""
    if "corpus_utterances" not in sample or "corpus_samples" not in sample:
        return {}
    utterances, samples = sample["corpus_utterances"], sample["corpus_samples"]
    return {
        **{f"{PREFIX}utterances_{number}": count for number, count in enumerate(utterances)},
        **{f"{PREFIX}samples_{number}": count for number, count in enumerate(samples)},
    }


def log_counted(corpora: Sequence[str], numbers: Mapping[str, float], sample_rate: int) -> None:
    """Log the utterances and hours of each corpus as sums over the log interval, or over the epoch.

    Args:
        numbers: sums of what `counted` returns.
    """
    for number, name in enumerate(metric_names(corpora)):
        if f"{PREFIX}utterances_{number}" in numbers:
            utterances, samples = (numbers[f"{PREFIX}{what}_{number}"] for what in ("utterances", "samples"))
            metrics.log_scalar_sum(f"{name}_utterances", round(utterances), priority=620)
            metrics.log_scalar_sum(f"{name}_hours", samples / sample_rate / 3600, priority=621, round=5)


def split(
    logging_outputs: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Separate logging outputs into the criterion's own values, and those of corpora."""
    own = [{name: value for name, value in log.items() if not name.startswith(PREFIX)} for log in logging_outputs]
    rest = [{name: value for name, value in log.items() if name.startswith(PREFIX)} for log in logging_outputs]
    return own, rest


def log(corpora: Sequence[str], logging_outputs: Sequence[Mapping[str, Any]]) -> None:
    """Log loss, in bits, and accuracy or error rates of each corpus that these outputs have rows of.

    Args:
        corpora: task.multi_corpus_keys.
        logging_outputs: what `sums` returned, over forward passes and processes.
    """
    total = {name.removeprefix(PREFIX): value for name, value in summed(logging_outputs).items()}
    for number, name in enumerate(metric_names(corpora)):
        size = _of(total, "sample_size", number)
        if size > 0 and "loss" in total:
            loss = _of(total, "loss", number) / size / math.log(2)
            metrics.log_scalar(f"{name}_loss", loss, size, priority=600, round=3)
        for metric, (part, whole, factor) in _SHARES.items():
            if _of(total, whole, number) > 0:
                keys = f"_{name}_{part}", f"_{name}_{whole}"
                metrics.log_scalar(keys[0], _of(total, part, number))
                metrics.log_scalar(keys[1], _of(total, whole, number))
                metrics.log_derived(f"{name}_{metric}", Rate(*keys, factor), priority=610)


def _of(total: Mapping[str, np.ndarray], name: str, number: int) -> float:
    return float(total[name][number]) if name in total else 0.0
