"""Error rates of a test set in per cent, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from fairseq.evaluation.testset import TestSet
from fairseq.inference.recognise import Reading
from fairseq.scoring.bootstrap import RateInterval, bootstrap
from fairseq.scoring.wer import Errors, character_errors, word_errors

if TYPE_CHECKING:
    from typing_extensions import NotRequired  # typing has it from Python 3.11 on

CountErrors = Callable[[Sequence[str], Sequence[str]], Errors]  # (references, hypotheses) -> errors
Bounds = list[float | None]  # low and high


class Rate(TypedDict):
    """One kind of error rate, as in results.json."""

    rate: float | None  # per cent; None if all references are empty
    errors: int
    total: int
    by_utterance: Bounds | None  # None for a single utterance
    by_speaker: NotRequired[Bounds | None]  # if speakers are known
    num_speakers: NotRequired[int]


def error_rates(
    testset: TestSet, readings: Sequence[Reading], speakers: Sequence[str] | None, draws: int, seed: int
) -> dict[str, Rate]:
    """Compute WER, CER and, if the references' units are known, UER, under the keys wer, cer and uer.

    Args:
        readings: one per utterance, in the manifest's order.
        speakers: one per utterance; None if unknown.
        draws, seed: see `bootstrap`.
    """
    texts = [reading.hypotheses[0].text for reading in readings]
    units = [reading.hypotheses[0].unit_text for reading in readings]
    compared: dict[str, tuple[CountErrors, Sequence[str], Sequence[str]]] = {
        "wer": (word_errors, testset.references, texts),
        "cer": (character_errors, testset.references, texts),
    }
    if testset.unit_references:
        compared["uer"] = (word_errors, testset.unit_references, units)
    return {name: rate_of(*parts, speakers, draws, seed) for name, parts in compared.items()}


def rate_of(
    count: CountErrors,
    references: Sequence[str],
    hypotheses: Sequence[str],
    speakers: Sequence[str] | None,
    draws: int,
    seed: int,
) -> Rate:
    """Count the errors of each utterance; returns their rate with its intervals. Arguments as for `error_rates`."""
    each = [count([reference], [hypothesis]) for reference, hypothesis in zip(references, hypotheses, strict=True)]
    errors, totals = [found.errors for found in each], [found.total for found in each]
    rate: Rate = {
        "rate": _number(Errors(sum(errors), sum(totals)).rate()),
        "errors": sum(errors),
        "total": sum(totals),
        "by_utterance": _bounds(bootstrap(errors, totals, None, draws, seed)),
    }
    if speakers is not None:
        by_speaker = bootstrap(errors, totals, speakers, draws, seed)
        rate["by_speaker"], rate["num_speakers"] = _bounds(by_speaker), by_speaker.num_groups
    return rate


def _number(rate: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return None if math.isnan(rate) else rate


def _bounds(interval: RateInterval) -> Bounds | None:
    return None if interval.num_groups < 2 else [_number(round(interval.low, 3)), _number(round(interval.high, 3))]
