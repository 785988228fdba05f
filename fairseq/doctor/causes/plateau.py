"""InfoNCE at chance: the normal beginning, a run that cannot leave it, and one that fell back."""

from __future__ import annotations

import math

import numpy as np

from fairseq.doctor.findings import Finding, Severity, cause
from fairseq.doctor.pretraining import (
    FAR_OVER,
    PAPER_SECONDS,
    TRIAL,
    chance,
    info_nce,
    path,
    peak_rate,
    rate_over_recipe,
    warmup,
    whole_path,
)
from fairseq.doctor.records import Records
from fairseq.doctor.trends import series, since, smooth

_NEAR = 0.02  # bits from chance; an interval's mean varies by about 0.003 there
_LEFT = 0.1  # bits below chance: it has learned
_LOST = 0.25  # of what was learned is left, at most: healthy curves turn back by far less
# sums of learning rates at which small models left the plateau (docs/stuck-at-6.658.md: 0.03 to 0.13), and at which
# the base model does (0.05 to 0.2, between 2,500 and 5,000 updates)
_SOONEST, _LATEST = 0.03, 0.2
_HOPELESS = _SOONEST / 3  # a whole run that is shorter than this cannot leave
_PATIENCE = 0.5
_PATIENCE_LITTLE_AUDIO = 0.25
_LITTLE_AUDIO = 7.0  # times the recipe's rate for this audio; one card with the base config has 8, the demo 4


@cause("plateau", updates=TRIAL)
def plateau(records: Records) -> Finding | None:
    """Find a run whose InfoNCE is at chance."""
    curve = info_nce(records)
    if len(curve.values) < 2:
        return None
    guess = chance(records)
    level = smooth(curve.values)
    learned = np.maximum.accumulate(guess - level)  # bits, at most so far
    if learned[-1] > _LEFT:
        return _fell_back(records, since(level > guess - np.maximum(_NEAR, _LOST * learned)))
    return _not_left(records) if level[-1] > guess - _NEAR else None


def _fell_back(records: Records, start: int | None) -> Finding | None:
    curve, guess = info_nce(records), chance(records)
    accuracy = series(records.training, "accuracy")
    if start is None or len(curve.values) - start < 3:
        return None
    begin, end = int(curve.updates[start]), int(curve.updates[-1])
    if len(accuracy.values) and accuracy.at(end) > 0.5 * smooth(accuracy.values).max():
        return None  # the temperature of the logits changed, not what the model knows
    best = int(np.argmin(smooth(curve.values)))
    return Finding(
        "plateau",
        "error",
        "The model has lost what it had learned: its InfoNCE is back at chance, or nearly.",
        (
            f"InfoNCE was {curve.values[best]:.3f} bits at update {curve.updates[best]:,}, and has been near chance "
            f"({guess:.3f} bits) since update {begin:,}; it is {curve.values[-1]:.3f} at update {end:,}.",
        ),
        "Resume from a checkpoint before that update with a lower optimization.lr, and set optimization.clip_norm.",
        begin,
        end,
        metric="loss_0",
    )


def _not_left(records: Records) -> Finding:
    curve, guess = info_nce(records), chance(records)
    end = int(curve.updates[-1])
    done, whole = path(records).at(end), whole_path(records)
    over = rate_over_recipe(records)
    little = over >= _LITTLE_AUDIO
    seconds = series(records.training, "audio_s_per_update").values
    patience = _PATIENCE_LITTLE_AUDIO if little else _PATIENCE
    evidence = [
        f"InfoNCE is {curve.values[-1]:.3f} bits at update {end:,}; guessing among {2**guess:.0f} candidates costs "
        f"{guess:.3f}."
    ]
    if len(seconds):
        evidence.append(
            f"An update has {np.median(seconds):.0f} s of audio, {np.median(seconds) / PAPER_SECONDS:.2g} of the "
            "paper's 1.6 hours."
        )
    severity, title, change = _judge(done, whole, over, patience, little)
    if not math.isnan(done):
        evidence.append(
            f"The learning rates of the updates so far add up to {done:.2g}; runs leave the plateau between "
            f"{_SOONEST} and {_LATEST}."
        )
        if severity == "note":
            evidence.append(_estimate(records))
    if severity == "error" and whole < _HOPELESS:
        evidence.append(f"Those of the whole run add up to {whole:.2g}.")
    if over >= _LITTLE_AUDIO:
        evidence.append(
            f"The learning rate is {over:.0f} times that of the paper's recipe for this much audio and width."
        )
    badness = max(1.0, done / patience) if not math.isnan(done) else 1.0
    return Finding(
        "plateau", severity, title, evidence, change, int(curve.updates[0]), end, badness=badness, metric="loss_0"
    )


def _judge(done: float, whole: float, over: float, patience: float, little: bool) -> tuple[Severity, str, str]:
    """Return severity, title and what to change."""
    more_audio = (
        "Give an update more audio: raise optimization.update_freq, dataset.max_tokens, or the number of processes; or "
        "lower optimization.lr."
    )
    schedule = (
        "Set model.logit_temp_start=1.0 and model.logit_temp_updates to about the updates of the warm-up or more, "
        "which shortens the plateau."
    )
    if whole < _HOPELESS:
        return (
            "error",
            "The model cannot learn with this learning rate: its InfoNCE is at chance and will stay there.",
            "Raise optimization.lr (the paper's is 0.0005), or optimization.max_update.",
        )
    if over >= FAR_OVER:
        return (
            "error",
            "The model guesses, and its updates have far too little audio for this learning rate.",
            more_audio,
        )
    if done > patience:
        title = "The model still guesses: its InfoNCE has been at chance for longer than it should."
        return ("error" if done > 3 * patience else "warning", title, more_audio if little else schedule)
    if little:
        title = "The model guesses so far, and its updates have little audio for this learning rate."
        return "note", title, more_audio
    return "note", "The model guesses so far, as at the beginning of every run.", f"Wait. {schedule}"


def _estimate(records: Records) -> str:
    """Say at which updates runs with these learning rates leave the plateau."""
    peak, warm = peak_rate(records), warmup(records)

    def update_of(total: float) -> float:
        rising = peak * warm / 2
        return math.sqrt(2 * warm * total / peak) if total < rising else warm + (total - rising) / peak

    if not peak > 0:
        return "The learning rate is 0."
    return f"With this schedule, that is between updates {update_of(_SOONEST):,.0f} and {update_of(_LATEST):,.0f}."
