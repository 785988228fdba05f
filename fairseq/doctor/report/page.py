"""The report of one or more runs as a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairseq.doctor.findings import SEVERITIES
from fairseq.doctor.report import columns
from fairseq.doctor.report.codebook import codebook_parts
from fairseq.doctor.report.plots import (
    Place,
    chart_of,
    plots_of,
    points_for,
    split_by_section,
    target_of,
    time_charts,
)
from fairseq.doctor.report.runs import TRAINING, Run
from fairseq.doctor.report.settings import facts_table, setting_tables
from fairseq.pages.charts import Chart, Table, shown
from fairseq.pages.page import Link, Notice, Page, Part, Section

_PLURALS = {"error": "errors", "warning": "warnings", "note": "notes"}
_UPDATES = 25  # of an utterance's hypotheses
_UTTERANCES = 8


def run_page(runs: Sequence[Run], watched: bool = False) -> Page:
    """Build the page of runs, at least one.

    Args:
        watched: it is served, and reloads itself when there are new records.
    """
    places = _places(runs)
    plots = plots_of(runs)
    points = points_for(plots, len({run.band.name for run in runs if run.band is not None}))
    charts = split_by_section((plot.column.section, chart_of(plot, runs, places, points)) for plot in plots)
    charts[columns.SPEED][:0] = time_charts(runs, places)
    sections: list[tuple[str, Sequence[Part]]] = [("Summary", [_summary(runs)])]
    for section, of_section in charts.items():
        parts: list[Part] = list(of_section)
        if section == columns.CODEBOOK:
            parts += [part for run in runs for part in codebook_parts(run, len(runs))]
        sections.append((section, parts))
        if section == columns.LEARNING:
            sections.append(("Hypotheses", [table for run in runs for table in _hypotheses(run, len(runs))]))
    sections.append(("Config", setting_tables(runs)))
    sections.append(("Data", facts_table("Sets of utterances", runs, [run.records.data for run in runs])))
    sections.append(
        ("Environment", facts_table("Machine and versions", runs, [run.records.environment for run in runs]))
    )
    drawn = {chart.key for of_section in charts.values() for chart in of_section}
    notices = [_notice(place, drawn, len(runs)) for place in places]
    title = f"Run report: {', '.join(run.name for run in runs)}"
    shown_sections = [Section(name, parts) for name, parts in sections if parts]
    return Page(title, verdict(runs), notices, shown_sections, watched)


def verdict(runs: Sequence[Run]) -> str:
    """Say in a sentence or two how the runs are."""
    findings = [finding for run in runs for finding in run.findings]
    counts = []
    for severity in SEVERITIES:
        count = sum(finding.severity == severity for finding in findings)
        if count:
            counts.append(f"1 {severity}" if count == 1 else f"{count} {_PLURALS[severity]}")
    found = ", ".join(counts) if counts else "Nothing found"
    if len(runs) > 1:
        return f"{found}. {len(runs)} runs."
    run = runs[0]
    state = "has ended" if run.records.is_over else "has not ended"
    return f"{found}. The run {state}; its last records are of update {run.last_update:,}."


def _places(runs: Sequence[Run]) -> list[Place]:
    """Name all findings, the most severe first."""
    places = [
        Place(finding, run.name, finding.name if len(runs) == 1 else f"{number}-{finding.name}")
        for number, run in enumerate(runs, start=1)
        for finding in run.findings
    ]
    return sorted(places, key=lambda place: SEVERITIES.index(place.finding.severity))


def _notice(place: Place, drawn: set[str], runs: int) -> Notice:
    finding = place.finding
    key = target_of(finding, runs)
    links = []
    if key in drawn:
        column = columns.NAMED.get(finding.metric)
        title = "the share of the time" if key == "times" else (column.title.lower() if column else finding.metric)
        links.append(Link(f"Show update {finding.begin:,} in the plot of {title}", f"chart-{key}"))
    title = finding.title if runs == 1 else f"{place.run}: {finding.title}"
    change = f"{finding.change} More: docs/doctor.md, {finding.name}."
    return Notice(place.name, finding.severity, title, change, list(finding.evidence), links=links, quoted=False)


def _summary(runs: Sequence[Run]) -> Table:
    rows: list[list[str]] = []

    def add(name: str, cells: Sequence[str]) -> None:
        if any(cell != "-" for cell in cells):
            rows.append([name, *cells])

    add("Updates", [f"{run.last_update:,}" for run in runs])
    add("Epochs", [f"{run.last_epoch:,}" for run in runs])
    add("State", ["ended" if run.records.is_over else "running or stopped" for run in runs])
    add("Resumed at updates", [_starts(run) for run in runs])
    add("Hours", [_hours(run) for run in runs])
    for name in ("loss", "loss_0", "accuracy", "wer"):
        title = columns.NAMED[name].title
        add(f"{title}, last, training", [_last(run, name) for run in runs])
        sets = dict.fromkeys(split for run in runs for split in run.records.validation)
        for split in sets:
            add(f"{title}, best, {split}", [_best(run, split, name) for run in runs])
    add("Findings", [str(len(run.findings)) for run in runs])
    add("Reference curve", [_band(run) for run in runs])
    return Table("Results", ["", *(run.name for run in runs)], rows)


def _starts(run: Run) -> str:
    return ", ".join(f"{update:,}" for update in run.records.starts if update > 0) or "-"


def _hours(run: Run) -> str:
    wall = run.records.training.values("wall")
    return f"{np.nanmax(wall) / 3600:.2f}" if np.isfinite(wall).any() else "-"


def _last(run: Run, column: str) -> str:
    curve = run.curves(column).get(TRAINING)
    if curve is None:
        return "-"
    return shown(curve.y[np.isfinite(curve.y)][-1])


def _best(run: Run, split: str, column: str) -> str:
    curve = run.curves(column).get(split)
    if curve is None:
        return "-"
    best = int(np.nanargmax(curve.y) if column == "accuracy" else np.nanargmin(curve.y))
    return f"{shown(curve.y[best])} (update {curve.x[best]:,})"


def _band(run: Run) -> str:
    return "-" if run.band is None else run.band.say(run.band.place(run.band.rows(run.records)))


def _hypotheses(run: Run, runs: int) -> list[Table]:
    """Return a table for each utterance: its reference, and what the model made of it over the updates."""
    by_utterance: dict[tuple[str, str], list[tuple[int, str]]] = {}
    references: dict[tuple[str, str], str] = {}
    for row in run.records.hypotheses:
        key = str(row.get("split", "")), str(row.get("id", ""))
        update = row.get("num_updates")
        if isinstance(update, int):
            references[key] = str(row.get("reference", ""))
            by_utterance.setdefault(key, []).append((update, str(row.get("hypothesis", ""))))
    tables = []
    for number, (key, found) in enumerate(list(by_utterance.items())[:_UTTERANCES]):
        split, name = key
        picked = np.unique(np.linspace(0, len(found) - 1, min(_UPDATES, len(found))).astype(int)).tolist()
        rows = [["reference", references[key]], *([f"{found[i][0]:,}", found[i][1] or "(nothing)"] for i in picked)]
        of_run = "" if runs == 1 else f"{run.name}: "
        caption = f"{of_run}Utterance {name} of {split}"
        tables.append(Table(caption, ["update", "text"], rows, folded=number >= 2 or runs > 1, prose=True))
    return tables


def charts_of(page: Page) -> list[Chart]:
    """Return all plots of a page."""
    return [part for section in page.sections for part in section.parts if isinstance(part, Chart)]
