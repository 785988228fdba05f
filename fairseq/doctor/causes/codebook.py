"""The codebook: collapse, before and when it is complete, and codewords that an epoch never uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import TRIAL, codewords, groups, loss_weights, number, penalty_column, warmup
from fairseq.doctor.records import EPOCH, Records
from fairseq.doctor.trends import Series, series, since, smooth

_COMPLETE = 1.25  # times the number of groups
_LASTING = 20  # updates: a few batches may share a code
# A base model that learns had 18 to 26 of 640 codewords in use at 1,000 to 22,000 updates (fairseq issues 2981, 3391),
# 4 to 6 times the lowest value.
_NEAR = 3.0  # times the number of groups: a warning while it falls
_SHRUNK = 0.5  # of its largest value: without a diversity term
# the other form: features die, probabilities become equal, and rounding chooses the code (fairseq issues 3109, 3330)
_EVEN, _CODES_OF_EVEN = 0.85, 0.25
_DEAD_PENALTY = 0.001  # bits; healthy features have 0.015 and more
_ADVICE = (
    "Lower optimization.lr, lengthen lr_scheduler.warmup_updates, and keep criterion.loss_weights at [0.1,10] (the "
    "first is the diversity term's). A collapsed codebook does not recover: start from a checkpoint before it."
)


@cause("codebook-collapse", updates=20)
def codebook_collapse(records: Records) -> Finding | None:
    """Find a code perplexity at the number of groups, or on its way there."""
    codes = series(records.training, "code_perplexity")
    if len(codes.values) < 2:
        return None
    level = smooth(codes.values)
    return (
        _complete(records, codes, level) or _features_dead(records, codes, level) or _shrinking(records, codes, level)
    )


def _lasts(codes: Series, start: int) -> bool:
    """Say whether the rows from `start` on are more than a few odd updates."""
    before = int(codes.updates[start - 1]) if start else 0
    return len(codes.values) - start >= 2 and int(codes.updates[-1]) - before >= _LASTING


def _complete(records: Records, codes: Series, level: np.ndarray) -> Finding | None:
    least = groups(records)
    start = since(level <= _COMPLETE * least)
    if start is None or not _lasts(codes, start):
        return None
    if start == 0:
        title = (
            "Every frame has had the same code from the beginning: the audio is silent or constant, or it is not read."
        )
        change = "Listen to the audio, and run fairseq-data-report on the manifest: it finds silence and steady sounds."
    else:
        title = "The codebook has collapsed: every frame has the same code, so there is nothing to predict."
        change = _ADVICE
    return Finding(
        "codebook-collapse",
        "error",
        title,
        (
            f"Code perplexity is {codes.values[-1]:.1f} at update {codes.updates[-1]:,}; {least:.0f} is the lowest "
            f"possible, and {codewords(records):.0f} the highest.",
            f"It was {level.max():.0f} at update {codes.updates[int(level.argmax())]:,}.",
            *_without_diversity(records),
        ),
        change,
        int(codes.updates[start]),
        int(codes.updates[-1]),
        metric="code_perplexity",
        has_collapsed=True,
    )


def _features_dead(records: Records, codes: Series, level: np.ndarray) -> Finding | None:
    probabilities = series(records.training, "prob_perplexity")
    if len(probabilities.values) != len(codes.values):
        return None
    even = smooth(probabilities.values)
    penalty = series(records.training, penalty_column(records))
    dead = np.nan_to_num(penalty.beside(codes.updates)) <= _DEAD_PENALTY
    start = since((even > _EVEN * codewords(records)) & (level < _CODES_OF_EVEN * even) & dead)
    if start is None or not _lasts(codes, start):
        return None
    return Finding(
        "codebook-collapse",
        "error",
        "The features have died: all frames are alike, and the codebook cannot tell them apart.",
        (
            f"Codewords are equally likely (perplexity {probabilities.values[-1]:.0f} of {codewords(records):.0f}), "
            f"but only few are chosen (code perplexity {codes.values[-1]:.1f}) at update {codes.updates[-1]:,}.",
            *(
                (f"The feature penalty is {penalty.values[-1]:.2g}, down from {penalty.values.max():.2g}.",)
                if len(penalty.values)
                else ()
            ),
        ),
        _ADVICE,
        int(codes.updates[start]),
        int(codes.updates[-1]),
        metric="code_perplexity",
        has_collapsed=True,
    )


def _shrinking(records: Records, codes: Series, level: np.ndarray) -> Finding | None:
    """Find a codebook in use that shrinks: below 3 times the groups, or by half without a diversity term."""
    least, top = groups(records), int(level.argmax())
    used, most = float(level[-1]), float(level[top])
    alone = bool(_without_diversity(records))
    near = used <= _NEAR * least and used < 0.5 * most
    shrunk = alone and used - least < _SHRUNK * (most - least)
    if not (near or shrunk) or len(level) - top < 4 or codes.updates[-1] - codes.updates[top] < _LASTING:
        return None
    if near and not shrunk and level[-1] >= level[max(top, len(level) - 5)]:
        return None  # it recovers
    evidence = [
        f"Code perplexity fell from {most:.0f} at update {codes.updates[top]:,} to {used:.1f} at update "
        f"{codes.updates[-1]:,}; {least:.0f} is the lowest possible.",
        *_without_diversity(records),
        *_arrival(codes, level, top, least),
    ]
    return Finding(
        "codebook-collapse",
        "warning",
        "The codebook is collapsing: fewer and fewer codes are in use.",
        evidence,
        "Set criterion.loss_weights=[0.1,10] (the first is the diversity term's)." if alone else _ADVICE,
        int(codes.updates[top]),
        int(codes.updates[-1]),
        badness=most / used,
        metric="code_perplexity",
    )


def _without_diversity(records: Records) -> tuple[str, ...]:
    weights = loss_weights(records)
    if weights is None or weights[0] > 0:
        return ()
    return ("The diversity term has weight 0 (criterion.loss_weights), so nothing keeps codes in use.",)


def _arrival(codes: Series, level: np.ndarray, top: int, least: float) -> list[str]:
    """Extrapolate the excess over the lowest perplexity, which falls exponentially."""
    recent = slice(max(top, len(level) - 8), None)
    excess = np.log(np.maximum(level[recent] - least, 1e-3))
    slope, intercept = np.polyfit(codes.updates[recent].astype(float), excess, 1)
    if slope >= 0:
        return []
    update = (np.log((_COMPLETE - 1) * least) - intercept) / slope
    passed = codes.updates[-1] - codes.updates[top]
    if not codes.updates[-1] < update < codes.updates[-1] + 5 * passed:
        return []
    return [f"At this pace, the collapse is complete at about update {update:,.0f}."]


_MANY = 50  # counts for each codeword, on average: an unused one is then no accident
_DEAD_WARNING, _DEAD_NOTE = 0.6, 0.25


@cause("dead-codes", updates=TRIAL)
def dead_codes(records: Records) -> Finding | None:
    """Find codewords that no frame of an epoch had, from codes.jsonl."""
    if codebook_collapse(records) is not None:
        return None  # that says more
    epochs = [row for row in records.codes if row.get("split") == EPOCH]
    shares = [(int(number_of(row, "num_updates")), share) for row in epochs if (share := _dead_share(row)) is not None]
    if not shares:
        return None
    end, (dead, total) = shares[-1]
    length = number(records.setting("optimization.max_update"), 0.0)
    over = dead / total
    if over < _DEAD_NOTE or end <= 2 * warmup(records):
        return None
    # early, few codewords are in use, and their number grows: a warning only after that
    late = end > 0.25 * length and (len(shares) < 2 or over >= shares[-2][1][0] / shares[-2][1][1] - 0.02)
    begin = next(update for update, (few, all_) in shares if few / all_ >= _DEAD_NOTE)
    return Finding(
        "dead-codes",
        "warning" if over >= _DEAD_WARNING and late else "note",
        "Many codewords are dead: no frame of an epoch has them.",
        (f"{dead} of {total} codewords were never chosen in the epoch that ended at update {end:,}.",),
        "Raise the diversity term's weight (the first of criterion.loss_weights), lower model.latent_vars, or let the "
        "Gumbel temperature fall more slowly (model.latent_temp).",
        begin,
        end,
        badness=max(over, 0.01),
        metric="code_perplexity",
    )


def number_of(row: object, name: str) -> float:
    """Return a number of a row; 0 if it has none."""
    value = row.get(name) if isinstance(row, dict) else None
    return float(value) if isinstance(value, (int, float)) else 0.0


def _dead_share(row: object) -> tuple[int, int] | None:
    """Return dead and all codewords; None if there are too few counts to say."""
    counts = row.get("counts") if isinstance(row, dict) else None
    if not isinstance(counts, Sequence) or not counts:
        return None
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or table.sum(axis=1).min() < _MANY * table.shape[1]:
        return None
    return int((table == 0).sum()), int(table.size)
