"""Plots and heat maps: what they show, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # of a heat map, from none to most


class Table(NamedTuple):
    """A table; all columns but the first are aligned right."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # only its caption shows until it is opened: for long tables
    prose: bool = False  # the columns are text: aligned left


class Mark(NamedTuple):
    """A place on the x axis of a plot that a finding is about."""

    begin: float
    end: float
    severity: str  # error, warning or note
    label: str
    finding: str  # its `Notice.name`


class Range(NamedTuple):
    """A range of values that is expected, drawn as an area behind the curves."""

    name: str
    low: np.ndarray  # for each x; NaN where nothing is expected
    high: np.ndarray


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
        stacked: draw the series on top of each other, the first at the bottom. NaN counts as 0.
        joined: draw through gaps: the series have values at different x.
        smooth: the same series smoothed, by name; offered by a button, and shown first where values are dense.
        expected: a range that is expected.
        marks: places of findings.
        key: its address in the page is chart-KEY; empty: by its position.
        wide: as wide as the page; others may stand next to each other.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x: np.ndarray
    series: Mapping[str, np.ndarray]
    steps: bool = False
    log: bool = False
    stacked: bool = False
    joined: bool = False
    smooth: Mapping[str, np.ndarray] = field(default_factory=dict)
    expected: Range | None = None
    marks: Sequence[Mark] = ()
    key: str = ""
    wide: bool = False

    def __post_init__(self) -> None:
        expected = len(self.x) - self.steps
        ranges = {} if self.expected is None else {"low": self.expected.low, "high": self.expected.high}
        for name, values in (*self.series.items(), *self.smooth.items(), *ranges.items()):
            assert len(values) == expected, f"{self.title}: {name} has {len(values)} values, not {expected}"
        assert set(self.smooth) <= set(self.series)

    def data(self) -> dict[str, object]:
        """Return what charts.js draws, as plain lists."""
        columns = [_listed(np.append(values, values[-1:]) if self.steps else values) for values in self.series.values()]
        data: dict[str, object] = {
            "x": _listed(self.x, digits=9),
            "y": columns,
            "names": list(self.series),
            "xLabel": self.x_label,
            "yLabel": self.y_label,
            "steps": self.steps,
        }
        if self.stacked:
            data["stacked"] = True
        if self.joined:
            data["joined"] = True
        if self.smooth:
            data["smooth"] = [_listed(self.smooth[name]) if name in self.smooth else [] for name in self.series]
        if self.expected is not None:
            data["expected"] = [self.expected.name, _listed(self.expected.low), _listed(self.expected.high)]
        if self.marks:
            data["marks"] = [[mark.begin, mark.end, mark.severity, f"finding-{mark.finding}"] for mark in self.marks]
        return data

    def table(self) -> Table:
        head = [self.x_label, *self.series]
        columns = list(self.series.values())
        if self.expected is not None:
            head += [f"{self.expected.name}, low", f"{self.expected.name}, high"]
            columns += [self.expected.low, self.expected.high]
        if not self.steps:
            rows = [[shown(x), *(shown(values[i]) for values in columns)] for i, x in enumerate(self.x.tolist())]
            return Table(self.title, head, rows)
        rows = [
            [f"{shown(self.x[i])} to {shown(self.x[i + 1])}", *(shown(values[i]) for values in columns)]
            for i in range(len(self.x) - 1)
        ]
        return Table(self.title, head, rows)


@dataclass(frozen=True)
class HeatMap:
    """Shares over time as colours: a row for each part, a column for each time.

    Args:
        title: what it shows.
        summary: the same in a sentence, for people who do not see it.
        x_label: the horizontal axis; x: the times, N, ascending.
        part: what a row is, such as codeword; rows: their numbers, R.
        shares: R x N, each column adds up to 1, or is 0 where nothing was counted.
    """

    title: str
    summary: str
    x_label: str
    x: np.ndarray
    part: str
    rows: np.ndarray
    shares: np.ndarray

    def __post_init__(self) -> None:
        assert self.shares.shape == (len(self.rows), len(self.x)), self.title

    def data(self) -> dict[str, object]:
        """Return what heat.js draws: a letter of LEVELS for each cell, column after column.

        The first level is 0, the others go from 1/64 of an even share to 64 times it, in equal factors.
        """
        steps = len(LEVELS) - 2
        with np.errstate(divide="ignore"):
            doublings = np.log2(self.shares * len(self.rows))
        level = 1 + np.clip(np.round((doublings + 6) / 12 * steps), 0, steps)
        level = np.where(self.shares > 0, level, 0).astype(np.uint8)
        cells = np.frombuffer(LEVELS.encode(), dtype=np.uint8)[level].T.tobytes().decode()
        return {
            "x": _listed(self.x, digits=9),
            "rows": self.rows.tolist(),
            "cells": cells,
            "xLabel": self.x_label,
            "part": self.part,
        }


def _listed(values: np.ndarray, digits: int = 5) -> list[float | int | None]:
    """Return numbers as JSON has them, with at most so many digits, the shortest way: NaN is null."""
    form = f"%.{digits}g"
    listed: list[float | int | None] = []
    for value in np.asarray(values, dtype=float).tolist():
        if value != value or value in (float("inf"), float("-inf")):
            listed.append(None)
        else:
            number = float(form % value)
            listed.append(int(number) if number.is_integer() and abs(number) < 1e15 else number)
    return listed


def shown(value: float) -> str:
    """Format a number for a table, with at most four digits after the first."""
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
