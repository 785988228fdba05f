"""Drifts that end in divergence, and parts that do not train at all."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import (
    TRIAL,
    chance,
    info_nce,
    is_pretraining,
    number,
    penalty_column,
    starts_from_scratch,
    warmup,
)
from fairseq.doctor.records import Records
from fairseq.doctor.trends import Drift, Series, drift, series, since, smooth

_GROWTH = 4.0  # of the gradient's norm, over its level before; leaving the plateau alone makes it grow 3 to 8 times,
# but the loss then falls
_GROWTH_AT_ONCE = 10.0  # while the rate or the temperature of the logits still changes
_PENALTY_GROWTH = 4.0
_LASTING = 20  # updates without a gradient
_PENALTY_MATTERS = 0.1  # bits; healthy: 0.02 to 0.05
_ADVICE = (
    "Lower optimization.lr, or set optimization.clip_norm, and resume from a checkpoint before that update. "
    "common.bf16=true instead of common.fp16=true avoids overflow."
)


@cause("gradient-drift", updates=50)
def gradient_drift(records: Records) -> Finding | None:
    """Find a gradient norm that keeps rising while the loss does not fall."""
    norms = series(records.training, "gnorm")
    positive = Series(norms.updates[norms.values > 0], norms.values[norms.values > 0])
    rise = drift(positive.values)
    if rise is None:
        return None
    begin, end = int(positive.updates[rise.begin]), int(positive.updates[-1])
    settled = max(warmup(records), number(records.setting("model.logit_temp_updates"), 0.0))
    losses = info_nce(records) if is_pretraining(records) else series(records.training, "loss")
    change = _rise_of_loss(losses, begin, end)
    if change is None or change.rise < -change.noise or rise.factor < _GROWTH:
        return None
    early = begin <= settled
    if early and (rise.factor < _GROWTH_AT_ONCE or change.rise < max(0.05, 3 * change.noise)):
        return None
    if is_pretraining(records) and change.before > chance(records) - 0.02 and change.rise < 0.1:
        return None  # at chance, gradients are tiny; the plateau has a finding of its own
    return Finding(
        "gradient-drift",
        "error" if change.rise > max(0.2, 5 * change.noise) else "warning",
        "The gradient's norm keeps rising while the loss does not fall: the run is about to diverge, or has.",
        (
            f"The norm was {rise.level:.3g} before update {begin:,}, and is {rise.factor:.1f} times that at update "
            f"{end:,}.",
            f"The loss went from {change.before:.3f} to {change.before + change.rise:.3f}.",
        ),
        _ADVICE,
        begin,
        end,
        badness=rise.factor,
        metric="gnorm",
    )


class _Change:
    """How a loss changed over a drift."""

    def __init__(self, before: np.ndarray, during: np.ndarray) -> None:
        self.before = float(np.median(before))
        self.rise = float(np.median(during)) - self.before
        self.noise = 1.4826 * float(np.median(np.abs(np.diff(before)))) + 1e-3 if len(before) > 1 else 1e-3


def _rise_of_loss(losses: Series, begin: int, end: int) -> _Change | None:
    """Compare the last three rows of the drift with the five before it."""
    before = losses.values[losses.updates < begin][-5:]
    during = losses.values[(losses.updates >= begin) & (losses.updates <= end)][-3:]
    return _Change(before, during) if len(before) >= 3 and len(during) else None


@cause("feature-penalty-drift", updates=50)
def feature_penalty_drift(records: Records) -> Finding | None:
    """Find features that keep growing: the first sign of many divergences."""
    if not is_pretraining(records):
        return None
    name = penalty_column(records)
    penalty = series(records.training, name)
    positive = Series(penalty.updates[penalty.values > 0], penalty.values[penalty.values > 0])
    rise: Drift | None = drift(positive.values)
    if rise is None or rise.factor < _PENALTY_GROWTH or float(np.median(positive.values[-3:])) < _PENALTY_MATTERS:
        return None
    begin, end = int(positive.updates[rise.begin]), int(positive.updates[-1])
    now = float(positive.values[-1])
    return Finding(
        "feature-penalty-drift",
        "error" if now > 2.0 else "warning",
        "The features keep growing: their penalty is drifting up, which comes before divergence.",
        (
            f"The penalty ({name}) was {rise.level:.3g} bits before update {begin:,}, and is {now:.3g} at update "
            f"{end:,}.",
        ),
        f"{_ADVICE} Keep the feature penalty's weight at 10 (the second of criterion.loss_weights), and "
        "model.feature_grad_mult at 0.1.",
        begin,
        end,
        badness=rise.factor,
        metric=name,
    )


@cause("frozen", updates=20)
def frozen(records: Records) -> Finding | None:
    """Find a model, or a part of it, that is not trained."""
    return _no_gradient(records) or _frozen_extractor(records) or _frozen_encoder(records)


def _no_gradient(records: Records) -> Finding | None:
    norms = series(records.training, "gnorm")
    start = since(smooth(norms.values, 2) <= 0)
    losses = series(records.training, "loss").values[-3:]
    # a norm below 0.0005 is logged as 0, and Adam still trains with it: then the loss moves
    if (
        start is None
        or len(norms.values) - start < 3
        or norms.updates[-1] - norms.updates[start] < _LASTING
        or (len(losses) == 3 and np.ptp(losses) > 0.002 * abs(losses[-1]))
    ):
        return None
    return Finding(
        "frozen",
        "error",
        "Nothing is trained: the gradient is 0.",
        (
            f"The gradient's norm has been 0 since update {norms.updates[start]:,}.",
            *((f"The last losses are {', '.join(f'{loss:.3f}' for loss in losses)}.",) if len(losses) else ()),
        ),
        "Look for frozen parts (model.feature_grad_mult=0, model.freeze_finetune_updates) and for a collapsed model "
        "(a code perplexity at its lowest); then start from a checkpoint before that update.",
        int(norms.updates[start]),
        int(norms.updates[-1]),
        metric="gnorm",
        has_collapsed=len(norms.values) - start >= 5 and int(norms.updates[-1] - norms.updates[start]) >= 2 * _LASTING,
    )


def _frozen_extractor(records: Records) -> Finding | None:
    """Pre-training from random weights with a feature extractor that gets no gradient."""
    rows = records.training
    if records.setting("model._name") != "wav2vec2" or len(rows) < 2 or not starts_from_scratch(records):
        return None
    mult = records.setting("model.feature_grad_mult")
    if mult is None or number(mult) != 0:
        return None
    penalty = series(rows, penalty_column(records))
    evidence = ["model.feature_grad_mult is 0, and training starts from random weights."]
    if len(penalty.values):
        evidence.append(
            f"The feature penalty is {penalty.values[-1]:.3g} bits at update {penalty.updates[-1]:,}, and was "
            f"{penalty.values[0]:.3g} at update {penalty.updates[0]:,}: features do not change."
        )
    return Finding(
        "frozen",
        "error",
        "The feature extractor is not trained: it keeps its random weights.",
        evidence,
        "Set model.feature_grad_mult=0.1, as in the paper.",
        int(rows.updates[0]),
        int(rows.updates[-1]),
        metric=penalty_column(records),
    )


def _frozen_encoder(records: Records) -> Finding | None:
    """Fine-tuning whose pre-trained encoder stays frozen to the end."""
    freeze = number(records.setting("model.freeze_finetune_updates"), 0.0)
    length = number(records.setting("optimization.max_update"), 0.0)
    rows = records.training
    if is_pretraining(records) or len(rows) < 2 or not TRIAL <= length <= freeze:
        return None
    return Finding(
        "frozen",
        "warning",
        "The pre-trained encoder is never trained: it stays frozen to the end of the run.",
        (f"model.freeze_finetune_updates is {freeze:,.0f}, and the run has {length:,.0f} updates.",),
        "Lower model.freeze_finetune_updates, to a tenth of the run or less.",
        int(rows.updates[0]),
        int(rows.updates[-1]),
    )
