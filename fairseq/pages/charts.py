"""Plots: what they show, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

POINTS = 2000  # of a curve, after thinning


class Table(NamedTuple):
    """A table; all columns but the first are aligned right."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # only its caption shows until it is opened: for long tables


@dataclass(frozen=True)
class Chart:
    """A plot of one or more series over one axis.

    Args:
        title: what it shows.
        summary: the same in a sentence, for people who do not see it.
        x_label, y_label: the axes, with units.
        x: ascending; for steps the N + 1 edges of N bins.
        series: values by name: one for each x, or for each bin. NaN leaves a gap.
        steps: draw bins, as of a histogram; otherwise curves.
        log: offer a logarithmic y axis.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x: np.ndarray
    series: Mapping[str, np.ndarray]
    steps: bool = False
    log: bool = False

    def __post_init__(self) -> None:
        expected = len(self.x) - self.steps
        for name, values in self.series.items():
            assert len(values) == expected, f"{self.title}: {name} has {len(values)} values, not {expected}"

    def data(self) -> dict[str, object]:
        """Return what charts.js draws, as plain lists."""
        columns = [_listed(np.append(values, values[-1:]) if self.steps else values) for values in self.series.values()]
        return {
            "x": _listed(self.x),
            "y": columns,
            "names": list(self.series),
            "xLabel": self.x_label,
            "yLabel": self.y_label,
            "steps": self.steps,
        }

    def table(self) -> Table:
        head = [self.x_label, *self.series]
        if not self.steps:
            rows = [
                [shown(x), *(shown(values[i]) for values in self.series.values())]
                for i, x in enumerate(self.x.tolist())
            ]
            return Table(self.title, head, rows)
        rows = [
            [
                f"{shown(self.x[i])} to {shown(self.x[i + 1])}",
                *(shown(values[i]) for values in self.series.values()),
            ]
            for i in range(len(self.x) - 1)
        ]
        return Table(self.title, head, rows)


def _listed(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON has them, with at most six digits: NaN is null."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]


def shown(value: float) -> str:
    """Format a number for a table, with at most four digits after the first."""
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Thin a long curve, and keep its shape: of each stretch its smallest and its largest value remain.

    Args:
        x, y: the curve, N; NaN in y are left out.
        points: at most about this many remain.
    Returns:
        x and y of the points that remain, in their order.
    """
    kept = np.flatnonzero(np.isfinite(y))
    x, y = x[kept], y[kept]
    if len(x) <= points:
        return x, y
    length = -(-len(x) // max(1, points // 2))  # of a stretch
    whole = len(x) - len(x) % length
    stretches = y[:whole].reshape(-1, length)
    begins = np.arange(len(stretches)) * length
    extremes = [begins + stretches.argmin(axis=1), begins + stretches.argmax(axis=1)]
    if whole < len(x):
        extremes.append(whole + np.asarray([y[whole:].argmin(), y[whole:].argmax()]))
    chosen = np.unique(np.concatenate([*extremes, [0, len(x) - 1]]))
    return x[chosen], y[chosen]
