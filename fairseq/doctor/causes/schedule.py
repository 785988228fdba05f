"""The learning rate's schedule: past its end, or a warm-up that is too short."""

from __future__ import annotations

import math

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import (
    FAR_OVER,
    chance,
    groups,
    info_nce,
    is_pretraining,
    number,
    numbers,
    peak_rate,
    rate_over_recipe,
    warmup,
)
from fairseq.doctor.records import Records
from fairseq.doctor.trends import Series, series, since, smooth

_OVER = 1e-4  # of the peak: a weight moves no more
_SHARE_OVER = 0.02  # of the updates so far; healthy runs end at a rate of 0, in one row


@cause("learning-rate-over", updates=20)
def learning_rate_over(records: Records) -> Finding | None:
    """Find a run that goes on after its schedule's end, at a rate of about 0."""
    rates, peak = series(records.training, "lr"), peak_rate(records)
    if len(rates.values) < 2 or not peak > 0:
        return None
    seen = float(rates.values.max())
    start = since(rates.values <= _OVER * peak)
    if start is None or start == 0 or seen <= 100 * _OVER * peak:
        return None  # it never rose: too low a rate is another finding
    begin, end = int(rates.updates[start]), int(rates.updates[-1])
    planned = _planned_end(records)
    length = number(records.setting("optimization.max_update"), 0.0)
    past = end - begin
    long_enough = len(rates.values) - start >= 3 and past > _SHARE_OVER * end
    sure = planned < length and end > planned and len(rates.values) - start >= 2
    if not (long_enough or sure):
        return None
    evidence = [f"The learning rate is {rates.values[-1]:.2g} since update {begin:,}; its peak is {peak:.2g}."]
    if planned < length:
        evidence.append(f"The schedule ends at update {planned:,.0f}, and the run at {length:,.0f}.")
    return Finding(
        "learning-rate-over",
        "warning",
        "The learning rate's schedule is over, but training continues: these updates change nothing.",
        evidence,
        "Let the schedule end where the run does (lr_scheduler.total_num_update=optimization.max_update), or stop the "
        "run here.",
        begin,
        end,
        badness=1 + past / max(begin, 1),
        metric="lr",
    )


def _planned_end(records: Records) -> float:
    """Return the update at which the schedule ends; infinity where the config does not say."""
    return number(records.setting("lr_scheduler.total_num_update"), math.inf)


_RISE = 0.5  # bits of the loss over its level at the start
_STABLE_BETA = 0.98


@cause("warm-up-too-short", updates=50)
def warm_up_too_short(records: Records) -> Finding | None:
    """Find a run that broke in or soon after a short warm-up.

    Adam's second moments need 2 / (1 - beta2) updates (Ma and Yarats 2021), and more at a rate that is high for the
    audio of an update. A short warm-up is a finding only if the run broke.
    """
    warm, rates = warmup(records), series(records.training, "lr")
    if records.setting("lr_scheduler") is None or len(rates.values) < 2 or not is_pretraining(records):
        return None
    over = rate_over_recipe(records)
    needed = 2 / (1 - _beta2(records)) * max(1.0, over if math.isfinite(over) else 1.0)
    window = max(4 * warm, needed)
    broken = _broken(records, window)
    if warm >= needed or over >= FAR_OVER or broken is None:
        return None
    begin, what = broken
    return Finding(
        "warm-up-too-short",
        "warning",
        "The warm-up is too short: the run broke as the learning rate reached its peak.",
        (
            what,
            f"The warm-up has {warm:,.0f} updates; with this learning rate and audio per update, it needs at least "
            f"{needed:,.0f}.",
            *((f"The rate is {over:.0f} times the paper's for this much audio and width.",) if over > 1 else ()),
        ),
        "Lengthen lr_scheduler.warmup_updates (the paper: 8 % of the run), or lower optimization.lr.",
        begin,
        int(rates.updates[-1]),
        metric="lr",
    )


def _beta2(records: Records) -> float:
    betas = records.setting("optimizer.adam_betas")
    if isinstance(betas, str):
        parts = betas.strip("()[] ").split(",")
        try:
            return min(0.9999, float(parts[-1]))
        except ValueError:
            return _STABLE_BETA
    values = numbers(betas)
    return values[1] if len(values) == 2 and 0 < values[1] < 1 else _STABLE_BETA


def _broken(records: Records, window: float) -> tuple[int, str] | None:
    """Return where and how the run broke within the first updates: loss above chance, or the codebook collapsed."""
    curve, codes = info_nce(records), series(records.training, "code_perplexity")
    early = Series(curve.updates[curve.updates <= window], curve.values[curve.updates <= window])
    guess = chance(records)
    rates = series(records.training, "lr")
    if len(early.values) >= 3 and rates.values.max() > 0.1 * peak_rate(records):
        level = smooth(early.values)
        start = since(level > guess + _RISE)
        # random weights may cost more than guessing at first: that is no rise
        if start is not None and level[-1] > level.min() + _RISE:
            update = int(early.updates[start])
            return (
                update,
                f"InfoNCE rose to {early.values[-1]:.3f} bits, above chance ({guess:.3f}), at update {update:,}.",
            )
    start = since(smooth(codes.values) <= 1.25 * groups(records))
    if start is not None and start > 0 and codes.updates[start] <= window:
        update = int(codes.updates[start])
        high = float(np.max(codes.values))
        return update, f"Code perplexity fell from {high:.0f} to {codes.values[-1]:.1f} by update {update:,}."
    return None
