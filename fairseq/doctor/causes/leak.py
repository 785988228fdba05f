"""An accuracy that is too good."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import groups, hours_heard, info_nce, starts_from_scratch
from fairseq.doctor.records import Records
from fairseq.doctor.trends import Series, series, since, smooth

_TOO_GOOD = 0.85  # the base model ends at 0.63 on LibriSpeech
# within this many hours of audio heard, and from random weights: a base model needs over 1,000 hours for 0.5 (fairseq
# issue 2981)
_TOO_EARLY, _HOURS = 0.6, 20.0
_ALIKE = 0.05  # of accuracy, between training and validation


@cause("accuracy-near-1", updates=50)
def accuracy_near_1(records: Records) -> Finding | None:
    """Find a contrastive task that is too easy, and say which reason fits."""
    accuracy = series(records.training, "accuracy")
    start = _too_good(records, accuracy)
    if start is None or len(accuracy.values) < 2:
        return None
    begin, end = int(accuracy.updates[start]), int(accuracy.updates[-1])
    curve = info_nce(records)
    evidence = [f"Accuracy is {accuracy.values[-1]:.3f} at update {end:,}; the paper's base model ends at 0.63."]
    if len(curve.values):
        evidence.append(f"InfoNCE is {curve.values[-1]:.3g} bits.")
    codes = series(records.training, "code_perplexity")
    alike = len(codes.values) > 0 and float(np.median(codes.values[-3:])) < 2 * groups(records)
    if len(codes.values):
        evidence.append(f"Code perplexity is {codes.values[-1]:.1f}; {groups(records):.0f} is the lowest possible.")
    valid = [
        (name, series(rows, "accuracy").values[-1]) for name, rows in records.validation.items() if rows.has("accuracy")
    ]
    evidence += [f"Accuracy on {name} is {value:.3f}." for name, value in valid]
    lowest = min((value for _, value in valid), default=float("nan"))
    if alike:
        title = "The task is too easy: all frames have the same code, as with silence or a constant signal."
        change = "Listen to the audio, and run fairseq-data-report on the manifest: it finds silence and steady sounds."
    elif lowest > accuracy.values[-1] - _ALIKE:
        title = (
            "The task is too easy in training and validation alike: files repeat in both, or sounds within a file do."
        )
        change = "Run fairseq-data-report on both manifests: it finds copies, also of training files in validation."
    else:
        title = "The model knows its training audio by heart: files repeat, or there are too few."
        change = "Run fairseq-data-report on the manifest, which finds copies, and add other recordings."
    return Finding(
        "accuracy-near-1",
        "error" if alike else "warning",
        title,
        evidence,
        change,
        begin,
        end,
        metric="accuracy",
    )


def _too_good(records: Records, accuracy: Series) -> int | None:
    """Return the first row of a stretch to the end that is too good, or that was so too early."""
    level = smooth(accuracy.values)
    start = since(level > _TOO_GOOD)
    if start is not None or not starts_from_scratch(records):
        return start
    start = since(level > _TOO_EARLY)
    if start is None:
        return None
    return start if hours_heard(records).at(int(accuracy.updates[start])) < _HOURS else None
