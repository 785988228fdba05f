"""Plots of runs: each value over updates, with the other runs, what is expected, and the places of findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairseq.doctor.findings import Finding
from fairseq.doctor.report import columns
from fairseq.doctor.report.columns import Column
from fairseq.doctor.report.runs import TRAINING, Run, is_training
from fairseq.pages.charts import Chart, Mark, Range, shown
from fairseq.pages.curves import POINTS, Curve, align, means, smooth, thin

UPDATE = "update"
_NUMBERS = 170_000  # of all plots of a page: about 1.2 MB
_LEAST_POINTS = 200  # of a plot
_SMOOTHED = 30  # points from which smoothing is offered
_WINDOW = 50  # smoothing goes over 1/50 of a curve, and at least 5 points
_TIME_POINTS = 400
_WIDE = ("loss", "times")


class Place(NamedTuple):
    """A finding, and how the page names it."""

    finding: Finding
    run: str
    name: str  # its `Notice.name`


class Plot(NamedTuple):
    """A plot before its points are thinned."""

    column: Column
    key: str
    title: str
    curves: Mapping[str, Curve]


def plots_of(runs: Sequence[Run]) -> list[Plot]:
    """Return the plots of all columns with values.

    One run has its training and validation in one plot; several have a plot for each, with all runs.
    """
    made = []
    for column in (*columns.COLUMNS, *_others(runs)):
        by_set: dict[str, dict[str, Curve]] = {}
        for run in runs:
            for name, curve in run.curves(column.name).items():
                by_set.setdefault(name, {})[run.name] = curve
        if len(runs) == 1:
            curves = {name: curve for name, of_run in by_set.items() for curve in of_run.values()}
            if curves and _is_worth(column, curves):
                made.append(Plot(column, key_of(column.name), column.title, curves))
            continue
        for name, curves in by_set.items():
            if _is_worth(column, curves):
                title = f"{column.title}, {name}" if len(by_set) > 1 else column.title
                made.append(Plot(column, key_of(column.name, name), title, curves))
    return made


def key_of(column: str, name: str = TRAINING) -> str:
    """Return the address of a plot, without `chart-`."""
    text = column if name == TRAINING else f"{column}-{name}"
    return re.sub(r"[^\w-]+", "-", text)


def _others(runs: Sequence[Run]) -> list[Column]:
    names: dict[str, None] = {}
    for run in runs:
        for rows in (run.records.training, *run.records.validation.values()):
            for row in rows.rows[-1:]:
                names.update(dict.fromkeys(row))
    others = [name for name in names if name not in columns.NAMED and name not in columns.NOT_SHOWN]
    return [Column(name, name, name, columns.OTHER) for name in others]


def _is_worth(column: Column, curves: Mapping[str, Curve]) -> bool:
    """Say whether a plot would show something: beyond the main ones, a constant does not."""
    if column.section == columns.LEARNING:
        return True
    values = np.concatenate([curve.y for curve in curves.values()])
    return float(np.nanmax(values)) > float(np.nanmin(values))


def points_for(plots: Sequence[Plot], expected: int) -> int:
    """Return how many points each plot may have, so that the page stays small."""
    numbers = sum(1 + 2 * len(plot.curves) for plot in plots) + 2 * expected
    return int(np.clip(_NUMBERS // max(1, numbers), _LEAST_POINTS, POINTS))


def chart_of(plot: Plot, runs: Sequence[Run], places: Sequence[Place], points: int) -> Chart:
    x, series = align(plot.curves)
    kept = thin(list(series.values()), points)
    smoothed = {
        name: smooth(curve.y, max(5, len(curve.x) // _WINDOW))
        for name, curve in plot.curves.items()
        if len(curve.x) >= _SMOOTHED
    }
    if smoothed:
        _, smoothed = align({name: Curve(curve.x, smoothed.get(name, curve.y)) for name, curve in plot.curves.items()})
    return Chart(
        title=plot.title,
        summary=_summary(plot),
        x_label=UPDATE,
        y_label=plot.column.unit,
        x=x[kept],
        series={name: values[kept] for name, values in series.items()},
        log=plot.column.log,
        joined=len(plot.curves) > 1,
        smooth={name: values[kept] for name, values in smoothed.items()},
        expected=_expected(plot, runs, x[kept]),
        marks=[mark for place in places if (mark := _mark(place, plot, runs)) is not None],
        key=plot.key,
        wide=plot.key in _WIDE,
    )


def _summary(plot: Plot) -> str:
    ends = []
    for name, curve in plot.curves.items():
        last = np.flatnonzero(np.isfinite(curve.y))[-1]
        ends.append(f"{name} {shown(float(curve.y[last]))} at update {curve.x[last]:,}")
    return f"{plot.column.about} Last: {', '.join(ends)}.".strip()


def _expected(plot: Plot, runs: Sequence[Run], x: np.ndarray) -> Range | None:
    """Return the band of the runs' config over this plot, where the plot shows its metric."""
    bands = {run.band.name: run for run in runs if run.band is not None}
    if len(bands) != 1:
        return None
    run = next(iter(bands.values()))
    band, split = run.band, run.band_split()
    if band is None or plot.key != key_of(band.metric, TRAINING if len(runs) == 1 else split):
        return None
    updates = np.asarray(band.updates)
    low, high = (np.interp(x, updates, edge, left=np.nan, right=np.nan) for edge in (band.low, band.high))
    return Range(f"band {band.name}", low, high) if np.isfinite(low).any() else None


def _mark(place: Place, plot: Plot, runs: Sequence[Run]) -> Mark | None:
    finding = place.finding
    if target_of(finding, len(runs)) != plot.key:
        return None
    label = f"From update {finding.begin:,}"
    if len(runs) > 1:
        label = f"{place.run}, from update {finding.begin:,}"
    return Mark(finding.begin, max(finding.begin, finding.end), finding.severity, label, place.name)


def target_of(finding: Finding, runs: int) -> str:
    """Return the key of the plot that shows a finding; empty if none does."""
    if not finding.metric:
        return ""
    if finding.metric in columns.TIMES and finding.metric != "data_wait":
        return "times"
    return key_of(finding.metric) if runs == 1 or is_training(finding.split) else key_of(finding.metric, finding.split)


# -- shares of the time ------------------------------------------------------------------------------------------------


def time_charts(runs: Sequence[Run], places: Sequence[Place]) -> list[Chart]:
    """Return a plot for each run whose rows say what the time went into."""
    charts = [(run, chart) for run in runs if (chart := _times(run)) is not None]
    made = []
    for number, (run, chart) in enumerate(charts):
        key = "times" if number == 0 else f"times-{number}"
        title = chart.title if len(runs) == 1 else f"{chart.title}, {run.name}"
        marks = [
            Mark(p.finding.begin, p.finding.end, p.finding.severity, f"From update {p.finding.begin:,}", p.name)
            for p in places
            if p.run == run.name and target_of(p.finding, len(runs)) == "times"
        ]
        made.append(
            Chart(
                title,
                chart.summary,
                chart.x_label,
                chart.y_label,
                chart.x,
                chart.series,
                stacked=True,
                marks=marks,
                key=key,
                wide=True,
            )  # fmt: skip
        )
    return made


def _times(run: Run) -> Chart | None:
    rows = run.records.training
    parts = {label: rows.values(name) for name, label in columns.TIMES.items() if rows.has(name)}
    if len(parts) < 2:  # older versions only know how long they waited for data
        return None
    x, values = means(
        rows.updates, [np.nan_to_num(column, posinf=0, neginf=0) for column in parts.values()], _TIME_POINTS
    )
    series = dict(zip(parts, values, strict=True))
    series["other"] = np.maximum(0, 100 - sum(values, np.zeros(len(x))))
    largest = sorted(series, key=lambda label: -float(series[label].mean()))[:3]
    summary = ", ".join(f"{label} {series[label].mean():.0f} %" for label in largest)
    return Chart(
        "Share of the time", f"Most of it: {summary}, on average. As the host sees it.", UPDATE, "% of the time",
        x, series, stacked=True,
    )  # fmt: skip


def split_by_section(charts: Iterable[tuple[str, Chart]]) -> dict[str, list[Chart]]:
    """Group charts by the section that shows them, in the order of the page."""
    grouped: dict[str, list[Chart]] = {section: [] for section in columns.SECTIONS}
    for section, chart in charts:
        grouped[section].append(chart)
    return grouped
