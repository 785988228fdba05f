"""Validation compared with training."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import (
    TRIAL,
    chance,
    hours_heard,
    info_nce,
    is_pretraining,
    number,
    penalty_column,
)
from fairseq.doctor.records import Records, Rows
from fairseq.doctor.trends import Series, series

_FEWEST = 3  # validations
_WORSE = 0.15  # of what was learned: an overfit
_LEARNED = 0.3  # bits below chance, before training and validation can be compared
_CTC_POINTS = 10.0  # % of units or words that are right, likewise
_UNLIKE = 3.0  # times, either way; a small validation set has 0.7 times the code perplexity of training
_HALF = 0.4  # of what training learned
_EPOCHS = 40  # audio heard as often is learned by heart, if validation gains little


def _judged(records: Records, rows: Rows, name: str) -> tuple[Series, Series, float, str] | None:
    """Return validation, training, the value of knowing nothing, and the column; lower is better."""
    if is_pretraining(records):
        # the temperature of the logits is part of the loss until its schedule ends
        settled = number(records.setting("model.logit_temp_updates"), 0.0)
        if records.setting("model.logit_temp_start") is None:
            settled = 0.0
        valid, train = info_nce(records, name).after(int(settled)), info_nce(records).after(int(settled))
        return valid, train, chance(records), "loss_0"
    for column in ("wer", "uer"):  # a CTC loss may rise while words get better
        if rows.has(column):
            return series(rows, column), series(records.training, "loss"), 100.0, column
    return None


@cause("overfit", updates=TRIAL)
def overfit(records: Records) -> Finding | None:
    """Find a validation set that gets worse while training gets better, or learns nothing from few files."""
    for name, rows in records.validation.items():
        found = _gets_worse(records, rows, name) or _by_heart(records, name)
        if found is not None:
            return found
    return None


def _gets_worse(records: Records, rows: Rows, name: str) -> Finding | None:
    judged = _judged(records, rows, name)
    if judged is None or len(judged[0].values) < _FEWEST:
        return None
    valid, train, nothing, column = judged
    best = int(np.argmin(valid.values))
    later = valid.values[best + 1 :]
    worse = float(later[-2:].min()) - float(valid.values[best]) if len(later) >= 2 else 0.0
    least = max(_WORSE * (nothing - float(valid.values[best])), 0.05 if column == "loss_0" else 2.0)
    began, end = int(valid.updates[best]), int(valid.updates[-1])
    before, now = train.at(began), train.at(end)
    if not worse > least or not now < before or _has_not_learned(records, valid, now, nothing):
        return None
    evidence = (
        f"{column} of {name} rose from {valid.values[best]:.3f} at update {began:,} to {valid.values[-1]:.3f} at "
        f"update {end:,}.",
        f"The training loss fell from {before:.3f} to {now:.3f} in that time.",
    )
    title = "The model overfits: validation gets worse while training gets better."
    return _overfit(title, evidence, began, end, column, name)._replace(badness=worse / least)


def _has_not_learned(records: Records, valid: Series, now: float, nothing: float) -> bool:
    """Say whether training, or the best validation of a CTC model, is still where every run begins."""
    if is_pretraining(records):
        return nothing - now < _LEARNED
    return nothing - float(valid.values.min()) < _CTC_POINTS


def _by_heart(records: Records, name: str) -> Finding | None:
    """Find training audio that is learned by heart: heard many times, and validation gains little from it."""
    gap = _gap(records, name)
    epochs = float(records.training.values("epoch")[-1]) if len(records.training) else 0.0
    if gap is None or not epochs >= _EPOCHS:
        return None
    began, end, learned, share = gap
    heard = hours_heard(records).at(end) / epochs
    evidence = (
        f"Training is {learned:.2f} bits below chance at update {end:,}, and {name} {share * learned:.2f}.",
        f"That is epoch {epochs:.0f}"
        + (f", and an epoch has {60 * heard:.1f} minutes of audio." if np.isfinite(heard) else "."),
    )
    title = "The model overfits: it knows its training audio by heart, and validation gains little."
    return _overfit(title, evidence, began, end, "loss_0", name)


def _overfit(title: str, evidence: tuple[str, ...], begin: int, end: int, column: str, split: str) -> Finding:
    return Finding(
        "overfit",
        "warning",
        title,
        evidence,
        "Add data, use the checkpoint of the best validation, end the run earlier (optimization.max_update, "
        "checkpoint.patience), or raise model.dropout and masking.",
        begin,
        end,
        metric=column,
        split=split,
    )


def _gap(records: Records, name: str) -> tuple[int, int, float, float] | None:
    """Find a validation set that gains little of what training learns, at all validations after the plateau.

    Returns:
        The first and the last of these validations, what training has learned (bits below chance), and the share of it
        that validation has; None if there are less than two, or if validation gains enough at any.
    """
    if not is_pretraining(records):
        return None
    valid, train, nothing = info_nce(records, name), info_nce(records), chance(records)
    learned = nothing - train.beside(valid.updates)
    usable = np.isfinite(learned) & (learned > _LEARNED)
    if usable.sum() < 2:
        return None
    shares = (nothing - valid.values[usable]) / learned[usable]
    if not (shares < _HALF).all():
        return None
    updates = valid.updates[usable]
    return int(updates[0]), int(updates[-1]), float(learned[usable][-1]), float(shares[-1])


@cause("validation-unlike-training", updates=50)
def validation_unlike_training(records: Records) -> Finding | None:
    """Find a validation set that is other audio than training, from the first validation on."""
    if not is_pretraining(records):
        return None
    for name, rows in records.validation.items():
        evidence = [*_other_level(records, rows), *_not_learned(records, name)]
        if not evidence:
            continue
        return Finding(
            "validation-unlike-training",
            "warning",
            f"The validation set {name} is unlike the training set: other audio, or prepared in another way.",
            evidence,
            "Compare the two manifests with fairseq-data-report: level, sample rate, channels, noise, language. "
            "Normalise both or neither (task.normalize).",
            int(rows.updates[0]),
            int(rows.updates[-1]),
            metric="loss_0",
            split=name,
        )
    return None


def _other_level(records: Records, rows: Rows) -> list[str]:
    """Compare features and codes of all validations with the training rows next to them."""
    evidence = []
    names = {penalty_column(records): "feature penalty", "code_perplexity": "code perplexity"}
    for column, title in names.items():
        valid, train = series(rows, column), series(records.training, column)
        beside = train.beside(valid.updates)
        usable = np.isfinite(beside) & (beside > 0) & (valid.values > 0)
        if usable.sum() < 2:
            continue
        factors = valid.values[usable] / beside[usable]
        if (factors > _UNLIKE).all() or (factors < 1 / _UNLIKE).all():
            evidence.append(
                f"The {title} is {valid.values[usable][-1]:.3g} in validation and {beside[usable][-1]:.3g} in training "
                f"at update {valid.updates[usable][-1]:,}, and differed as much at the first validation."
            )
    return evidence


def _not_learned(records: Records, name: str) -> list[str]:
    """Report a gap from the first validation after the plateau on, in data that is not heard often."""
    gap = _gap(records, name)
    if gap is None or float(records.training.values("epoch")[-1]) >= _EPOCHS:
        return []
    began, end, learned, share = gap
    return [
        f"At update {end:,}, training is {learned:.2f} bits below chance and validation {share * learned:.2f}; the gap "
        f"was there at the first validation after the plateau, at update {began:,}."
    ]
