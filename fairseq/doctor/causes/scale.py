"""fp16's loss scale falls again and again, and updates that are skipped because they are not finite."""

from __future__ import annotations

import math

import numpy as np

from fairseq.doctor.findings import Finding, Severity, cause
from fairseq.doctor.records import Records, Rows
from fairseq.doctor.windows import Windows, number

SEARCH = 100  # updates in which fp16 finds its first scale; at most one halving each
# The scale doubles after each window without overflow and then halves: healthy runs move within a factor of 4, and fall
# by another 8 to 16 when the loss leaves its plateau and gradients grow.
FALLEN = 6  # halvings from the highest scale, more than doublings
FALLS = 4  # log lines in which it fell
NEAR, FEW = 6, 3  # halvings above common.min_loss_scale, and from the highest scale: the run ends soon
LEAST = 5  # skipped updates of a stretch: single bad batches are fewer
OFTEN = 0.2  # share of a window's updates; fp16's own search for a scale skips far fewer after the start
RARE = 0.005  # share of all updates; without fp16 none should be skipped
ALL, STUCK = 0.99, 50  # share, and updates: nothing is learned any more
RECENT = 512  # rows without a number that are looked at: the rest of a run is like them


@cause("loss-scale-sliding", updates=20)
def loss_scale_sliding(records: Records) -> Finding | None:
    """The scale fell far below its highest value and does not recover, or is near the smallest that is allowed."""
    rows = records.training
    scales = rows.values("loss_scale")
    there = np.isfinite(scales) & (scales > 0)
    updates, halvings = rows.updates[there], np.log2(scales[there])
    smallest = number(records.setting("common.min_loss_scale")) or 1e-4
    if not len(halvings):
        return None
    left = float(halvings[-1]) - math.log2(smallest)
    settled = updates > SEARCH
    fallen, falls, peak = 0.0, 0, len(halvings) - 1
    if settled.any():
        first = int(np.argmax(settled))
        peak = len(halvings) - 1 - int(np.argmax(halvings[first:][::-1]))  # the latest of the highest
        after = halvings[peak:]
        fallen, falls = float(after[0] - after[-1]), int((np.diff(after) < 0).sum())
        if after[-1] > after.min() + 1:
            fallen = 0.0  # it recovers
    slides = fallen >= FALLEN and falls >= FALLS
    is_low = left <= NEAR and float(halvings.max() - halvings[-1]) >= FEW and halvings[-1] <= halvings.min() + 1
    if not (slides or is_low):
        return None
    if not slides:
        peak = int(np.argmax(halvings))
    begin, end = int(updates[peak]), int(updates[-1])
    fallen = float(halvings[peak] - halvings[-1])
    evidence = [
        f"The loss scale fell from {2 ** halvings[peak]:g} at update {begin:,} to {2 ** halvings[-1]:g} at update "
        f"{end:,}.",
        f"The run ends when it is below common.min_loss_scale={smallest:g}: after {max(0, math.ceil(left)):d} more "
        "halvings.",
    ]
    if fallen > 0 and end > begin and left > 0:
        evidence.append(f"At this rate, that is at about update {end + math.ceil(left * (end - begin) / fallen):,}.")
    return Finding(
        "loss-scale-sliding",
        "error" if left <= NEAR else "warning",
        "The loss scale of fp16 falls again and again: gradients overflow more and more often.",
        evidence,
        "Train in bf16 (common.bf16=true common.fp16=false) if the device has it. Otherwise lower optimization.lr, or "
        "warm up longer (lr_scheduler.warmup_updates). gnorm and loss_2 show where it begins.",
        begin,
        end,
        badness=max(fallen / FALLEN, 1.0),
        metric="loss_scale",
    )


@cause("non-finite")
def non_finite(records: Records) -> Finding | None:
    """Many updates were skipped, or the loss or the gradient norm is not finite."""
    return _not_a_number(records.training) or _skipped(records)


def _not_a_number(rows: Rows) -> Finding | None:
    """Look for rows whose loss or gradient norm is nan or inf, as other systems log them."""
    updates = rows.updates
    for name, column in (("loss", "the loss"), ("gnorm", "the gradient norm")):
        places = _places(rows, name)
        if not len(places):
            continue
        at_the_end = len(rows) - int(places[-1]) == 1 and len(places) >= 3 and bool(np.all(np.diff(places[-3:]) == 1))
        return Finding(
            "non-finite",
            "error" if at_the_end else "warning",
            f"In some log lines, {column} is not finite.",
            [
                f"{len(places):,} log lines from update {updates[places[0]]:,} to {updates[places[-1]]:,} have no "
                f"finite {name}.",
                *(["The last three are among them: the weights are probably damaged."] if at_the_end else []),
            ],
            "Resume from a checkpoint from before it, with a lower optimization.lr, a longer warm-up or "
            "optimization.clip_norm. Run fairseq-data-report to find damaged files.",
            int(updates[places[0]]),
            int(updates[places[-1]]),
            badness=float(len(places)),
            metric=name,
            has_collapsed=at_the_end,
        )
    return None


def _places(rows: Rows, name: str) -> np.ndarray:
    """Return the indices of the latest rows whose number of this name is nan or inf, not missing."""
    values, held = rows.values(name), rows.rows
    bad = np.flatnonzero(~np.isfinite(values))[-RECENT:]
    first = len(values) - len(held)  # of a live run, only the newest rows are held
    said = [i for i in bad.tolist() if np.isinf(values[i]) or (i >= first and _says_nan(held[i - first].get(name)))]
    return np.asarray(said, dtype=np.int64)


def _says_nan(value: object) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and value.lower() == "nan")


def _skipped(records: Records) -> Finding | None:
    """Count skipped updates: `skipped` counts from a start of the run, and is there from the first one on."""
    rows = records.training
    if not rows.has("skipped"):
        return None
    count = np.nan_to_num(rows.values("skipped"))
    new = np.diff(count, prepend=0.0)
    new = np.where(new < 0, count, new)  # a resumed run counts from 0
    updates = rows.updates
    has_fp16 = rows.has("loss_scale")
    counted = (updates > SEARCH) | (not has_fp16)
    new = np.where(counted, new, 0.0)
    total, last = int(new.sum()), int(updates[-1])
    places = np.flatnonzero(new)
    if not total or (has_fp16 and total < LEAST):
        return None
    stuck = _stuck_since(updates, new)
    windows = Windows(records)
    in_window = windows.sums_of(new)
    share = in_window / np.maximum(windows.end - windows.begin + 1, 1)
    worst = int(np.argmax(share)) if len(share) else 0
    in_a_row = len(share) > 0 and bool(((in_window >= LEAST) & ((share >= OFTEN) | (not has_fp16))).any())
    often = not has_fp16 and total >= LEAST and total >= RARE * last
    severity: Severity = "error" if stuck is not None else "warning" if in_a_row or often else "note"
    if severity == "note" and has_fp16:
        return None  # fp16 tries a larger scale now and then, and skips the update that shows it is too large
    begin, end = int(updates[places[0] - 1]) + 1 if places[0] else 1, int(updates[places[-1]])
    evidence = [f"{total:,} updates were skipped between update {begin:,} and {end:,}, of {last:,} in all."]
    if stuck is not None:
        evidence.append(f"Every update since {stuck:,} was skipped: the run learns nothing any more.")
        begin = stuck
    elif len(share):
        evidence.append(
            f"Most in the updates {windows.begin[worst]:,} to {windows.end[worst]:,}: {in_window[worst]:.0f} of them."
        )
    return Finding(
        "non-finite",
        severity,
        "Updates are skipped because their loss or gradient is not finite.",
        evidence,
        "The log names the utterances of each skipped update. If they are always the same ones, check those files "
        "(fairseq-data-report). Otherwise lower optimization.lr, warm up longer, or set optimization.clip_norm.",
        begin,
        end,
        badness=float(total),
        metric="skipped",
        has_collapsed=stuck is not None,
    )


def _stuck_since(updates: np.ndarray, new: np.ndarray) -> int | None:
    """Return the first update of a stretch up to the end in which all were skipped; None if it is short."""
    before = np.concatenate([[0], updates[:-1]])
    bad = new >= ALL * (updates - before)
    good = np.flatnonzero(~bad)
    begin = int(updates[good[-1]]) if len(good) else 0
    return begin + 1 if int(updates[-1]) - begin >= STUCK else None
