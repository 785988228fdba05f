"""Most updates are clipped: the limit sets the length of each update, not the gradient."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Windows, mean, number

MOSTLY = 50.0  # % of the updates in a window
# a limit against rare spikes is above the usual norm; where the usual norm is twice the limit, most of it is cut off
MUCH = 2.0  # gradient norm over the limit


@cause("clipping")
def clipping(records: Records) -> Finding | None:
    """Most updates are clipped over a long stretch."""
    windows = Windows(records)
    clipped = windows.means("clip")
    stretch = windows.longest(clipped >= MOSTLY)
    if stretch is None:
        return None
    share, norm = mean(clipped, stretch), mean(windows.means("gnorm"), stretch)
    limit = number(records.setting("optimization.clip_norm"))
    begin, end = int(windows.begin[stretch.first]), int(windows.end[stretch.last])
    evidence = [f"{share:.0f} % of the updates {begin:,} to {end:,} were clipped."]
    known = limit is not None and limit > 0 and np.isfinite(norm)
    over = norm / limit if known and limit else MUCH
    if known:
        evidence.append(
            f"The gradient norm was {norm:.3g} on average, {over:.1f} times optimization.clip_norm={limit:g}."
        )
    larger = f"optimization.clip_norm={_round(3 * norm)}" if np.isfinite(norm) else "a larger optimization.clip_norm"
    return Finding(
        "clipping",
        "warning" if over >= MUCH else "note",
        "Most updates are clipped.",
        evidence,
        f"Set optimization.clip_norm=0, as the recipes of wav2vec 2.0 do, or {larger}, which only cuts off spikes. If "
        "the norm rises, lower optimization.lr instead.",
        begin,
        end,
        badness=max(over, 1.0) * share / 100,
        metric="clip",
    )


def _round(value: float) -> str:
    """Write a number with one significant digit."""
    return f"{float(f'{value:.0e}'):g}"
