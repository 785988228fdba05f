"""CTC: only blanks, few symbols, words that stay wrong."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import TRIAL, is_pretraining, number, path
from fairseq.doctor.records import Records, Rows
from fairseq.doctor.trends import Series, series, since, smooth

_ALL = 99.5  # % of frames
_LATE = 0.5  # of the run: every CTC model says only blanks at first
_FAR_ENOUGH = 0.03  # sum of the learning rates so far: weights have hardly moved before
_FALLS = 0.1  # of the loss
_BACK = 1.1  # times the best loss


def _blanks(rows: Rows) -> Series:
    """Return the share of blank frames in %."""
    return series(rows, "blank_share" if rows.has("blank_share") else "blanks")


def _frozen_until(records: Records) -> float:
    return number(records.setting("model.freeze_finetune_updates"), 0.0)


def _length(records: Records) -> float:
    """Return the run's length in updates; infinity if it is not known."""
    length = number(records.setting("optimization.max_update"), 0.0)
    return length if length > 0 else float("inf")


def _late(records: Records, update: int) -> bool:
    """Say whether half of the run, and half of the updates with a trained encoder, are over, and could have taught."""
    length, start = _length(records), _frozen_until(records)
    start = start if start < length else 0.0
    return update - start >= _LATE * (length - start) and not path(records).at(update) < _FAR_ENOUGH


@cause("blanks-only", updates=TRIAL)
def blanks_only(records: Records) -> Finding | None:
    """Find a CTC model that predicts only blanks, for longer than at the beginning of every run."""
    rows = records.training
    blanks = _blanks(rows)
    if is_pretraining(records) or len(blanks.values) < 3:
        return None
    start = since(smooth(blanks.values) >= _ALL)
    if start is None:
        return None
    begin, end = int(blanks.updates[start]), int(blanks.updates[-1])
    losses = series(rows, "loss")
    before = losses.values[losses.updates < begin]
    # random weights predict symbols, too, but at a higher loss
    fell_back = len(before) >= 3 and float(np.median(losses.values[-3:])) > _BACK * float(smooth(before).min())
    late = _late(records, end)
    evidence = [f"{blanks.values[-1]:.1f} % of the frames are blanks at update {end:,}, since update {begin:,}."]
    if len(losses.values) >= 2:
        evidence.append(
            f"The loss went from {losses.values[0]:.3f} at update {losses.updates[0]:,} to {losses.values[-1]:.3f}."
        )
    if late or fell_back:
        title = "The model predicts only blanks."
        change = (
            "Check that each line of the labels belongs to its line of the manifest, that the checkpoint "
            "(model.w2v_path) has learned something, and that task.normalize is as in pre-training. Raise "
            "optimization.lr, or lower model.freeze_finetune_updates."
        )
    else:
        title = "The model predicts only blanks so far, as every CTC model at first."
        change = "Wait: symbols appear once the loss has fallen further."
    return Finding(
        "blanks-only",
        "error" if late else "warning" if fell_back else "note",
        title,
        evidence,
        change,
        begin,
        end,
        metric="blank_share" if rows.has("blank_share") else "blanks",
    )


_FEW = 30.0  # % of the dictionary
_WRONG = 50.0  # % of units


@cause("few-symbols", updates=TRIAL)
def few_symbols(records: Records) -> Finding | None:
    """Find a CTC model that uses a small part of its dictionary, and gets most units wrong."""
    if is_pretraining(records):
        return None
    for name, rows in records.validation.items():
        used, errors, blanks = series(rows, "symbols_used"), series(rows, "uer"), _blanks(rows)
        if len(used.values) < 2 or len(errors.values) < 2:
            continue
        start = since(used.values < _FEW)
        end = int(used.updates[-1])
        only_blanks = len(blanks.values) > 0 and blanks.values[-1] >= _ALL
        if (
            start is None
            or used.values[-1] <= 0
            or only_blanks
            or errors.values[-1] < _WRONG
            or not _late(records, end)
        ):
            continue
        return Finding(
            "few-symbols",
            "warning",
            "The model predicts only few of the dictionary's symbols.",
            (
                f"{used.values[-1]:.0f} % of the dictionary's symbols are predicted on {name} at update {end:,}, and "
                f"{errors.values[-1]:.0f} % of the units are wrong.",
            ),
            "Check that dict.ltr.txt has the symbols of the labels (case, script, spaces as |) and no others, and "
            "train longer or with a higher optimization.lr.",
            int(used.updates[start]),
            end,
            metric="symbols_used",
            split=name,
        )
    return None


_FLAT = 3  # validations after the first
_WORDS_WRONG = 90.0
_STEADY = 2.0  # points of word error rate


@cause("wer-flat", updates=TRIAL)
def wer_flat(records: Records) -> Finding | None:
    """Find a word error rate that stays near 100 % while the loss falls and symbols are predicted."""
    if is_pretraining(records):
        return None
    for name, rows in records.validation.items():
        words, units, blanks = series(rows, "wer"), series(rows, "uer"), _blanks(rows)
        losses = series(records.training, "loss")
        if len(words.values) <= _FLAT or len(losses.values) < 4 or len(units.values) != len(words.values):
            continue
        talks = ~(blanks.beside(words.updates) >= _ALL)
        start = since((words.values > _WORDS_WRONG) & talks)
        if start is None or len(words.values) - start <= _FLAT:
            continue
        begin, end = int(words.updates[start]), int(words.updates[-1])
        gained = float(words.values[start] - words.values[-1])
        before, now = losses.at(begin), losses.at(end)
        far_enough = not path(records).at(end) < _FAR_ENOUGH
        long_enough = end - begin >= max(0.25 * _length(records), TRIAL) and far_enough
        if not long_enough or not now < (1 - _FALLS) * before or gained > _STEADY:
            continue
        units_right = units.values[-1] < _WRONG
        return Finding(
            "wer-flat",
            "warning",
            "The word error rate does not move although the loss falls.",
            (
                f"The word error rate of {name} is {words.values[start]:.0f} % at update {begin:,} and "
                f"{words.values[-1]:.0f} % at update {end:,}.",
                f"The training loss fell from {before:.3f} to {now:.3f}, and the unit error rate from "
                f"{units.values[start]:.0f} % to {units.values[-1]:.0f} %.",
            ),
            "Units are mostly right, so words are put together wrongly: labels need | between words, and "
            "criterion.post_process must be letter for them."
            if units_right
            else "Look at hypotheses next to references. If they are unlike, labels do not belong to their audio; if "
            "they are close, train longer.",
            begin,
            end,
            metric="wer",
            split=name,
        )
    return None
