"""What the doctor found, as text for a terminal and as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from fairseq.doctor.bands import Band, Place, band_of
from fairseq.doctor.comparing import Comparison
from fairseq.doctor.findings import SEVERITIES, Finding, examine
from fairseq.doctor.records import INTERVAL, Records
from fairseq.logging.metrics_file import Json

PAGE = "docs/doctor.md"
WIDTH = 100


class Diagnosis(NamedTuple):
    """One run's findings.

    Args:
        update: the last one with a row.
        last: the config's last update; None: not known.
    """

    name: str
    update: int
    last: int | None
    is_over: bool
    findings: Sequence[Finding]
    band: Band | None
    place: Place | None

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return all(finding.severity == "note" for finding in self.findings)


def diagnose(name: str, records: Records) -> Diagnosis:
    """Look for all causes, and for the run's place in its config's band."""
    band = band_of(records.config, records.data)
    last = records.setting("optimization.max_update")
    updates = records.training.updates
    return Diagnosis(
        name,
        int(updates[-1]) if len(updates) else 0,
        last if isinstance(last, int) and last > 0 else None,
        records.is_over,
        examine(records),
        band,
        None if band is None else band.place(band.rows(records)),
    )


def verdict(diagnosis: Diagnosis) -> str:
    """One line: how many findings of each severity, and how far the run has come."""
    counts = [sum(finding.severity == severity for finding in diagnosis.findings) for severity in SEVERITIES]
    parts = [_counted(count, severity) for count, severity in zip(counts, SEVERITIES, strict=True) if count]
    said = ", ".join(parts) if not diagnosis.is_well else ", ".join(["nothing wrong", *parts])
    of = "" if diagnosis.last is None else f" of {diagnosis.last:,}"
    state = "" if diagnosis.is_over else ", not over"
    return f"{diagnosis.name}: {said} (update {diagnosis.update:,}{of}{state})"


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def as_text(diagnosis: Diagnosis) -> str:
    """The verdict, then each finding with its evidence and what to change, then the band."""
    lines = [verdict(diagnosis)]
    for finding in diagnosis.findings:
        lines += ["", *_wrapped(f"{finding.severity}: {finding.name}: {finding.title}", "  ")]
        begins = f"update {finding.begin:,}"
        span = begins if finding.begin == finding.end else f"{begins} to {finding.end:,}"
        lines += _wrapped(" ".join([*finding.evidence, f"({span})"]), "      ")
        lines += _wrapped(f"Change: {finding.change}", "      ") if finding.change else []
        lines.append(f"      More: {PAGE}#{finding.name}")
    if diagnosis.band is not None and diagnosis.place is not None:
        lines += ["", *_wrapped(diagnosis.band.say(diagnosis.place), "  ")]
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "    " * (len(indent) < 4),
        break_on_hyphens=False,
    )


def comparison_as_text(comparison: Comparison) -> str:
    """Config differences, then the curves at common updates and at each run's end, a column for each run."""
    labels = [f"[{number}]" for number in range(1, len(comparison.names) + 1)]
    lines = ["comparison", *(f"  {label} {name}" for label, name in zip(labels, comparison.names, strict=True))]
    lines += ["", "  config differences"]
    if comparison.without_config:
        lines.append(f"    not known: the config of {', '.join(comparison.without_config)}")
    if comparison.differences:
        rows = [[found.key, *map(_shown, found.values)] for found in comparison.differences]
        lines += _table([["", *labels], *rows])
    else:
        lines.append("    none")
    for curve in comparison.curves:
        where = "training" if curve.split == INTERVAL else f'validation "{curve.split}"'
        rows = [["update", *labels]]
        for at, update in enumerate(curve.updates):
            rows.append([f"{update:,}", *(_number(values[at]) for values in curve.values)])
        rows.append(["last", *(f"{_number(value)} ({update:,})" for update, value in curve.last)])
        lines += ["", f"  {curve.metric}, {where}", *_table(rows)]
    return "\n".join(lines)


def _shown(value: Json) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def as_json(diagnoses: Sequence[Diagnosis], comparison: Comparison | None) -> dict[str, Json]:
    """Everything, as plain values; a number that is not finite is null."""
    runs: list[Json] = [_run(diagnosis) for diagnosis in diagnoses]
    return {"runs": runs, "comparison": None if comparison is None else _comparison(comparison)}


def _run(diagnosis: Diagnosis) -> dict[str, Json]:
    findings: list[Json] = []
    for finding in diagnosis.findings:
        findings.append({**finding._asdict(), "evidence": list(finding.evidence), "badness": _finite(finding.badness)})
    band: Json = None
    if diagnosis.band is not None and diagnosis.place is not None:
        place = {key: _finite(value) for key, value in diagnosis.place._asdict().items()}
        band = {
            "name": diagnosis.band.name,
            "version": diagnosis.band.version,
            "metric": diagnosis.band.metric,
            **place,
        }
    return {
        "run": diagnosis.name,
        "is_well": diagnosis.is_well,
        "update": diagnosis.update,
        "max_update": diagnosis.last,
        "is_over": diagnosis.is_over,
        "findings": findings,
        "band": band,
    }


def _comparison(comparison: Comparison) -> dict[str, Json]:
    differences: list[Json] = [{"key": found.key, "values": found.values} for found in comparison.differences]
    curves: list[Json] = []
    for curve in comparison.curves:
        values: list[Json] = [[_finite(value) for value in line] for line in curve.values]
        last: list[Json] = [{"update": update, "value": _finite(value)} for update, value in curve.last]
        updates: list[Json] = [*curve.updates]
        curves.append(
            {"metric": curve.metric, "split": curve.split, "updates": updates, "values": values, "last": last}
        )
    return {"runs": [*comparison.names], "differences": differences, "curves": curves}


def _finite(value: Json) -> Json:
    return None if isinstance(value, float) and not math.isfinite(value) else value
