"""The report as text for a terminal, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from fairseq.corpora.report.describing import (
    PERCENTILES,
    batch_caption,
    by_value,
    length,
    names_of,
    rows_of_batches,
    rows_of_corpora,
    training,
    verdict,
)
from fairseq.corpora.report.records import Finding
from fairseq.corpora.report.report import DataReport, Description

_WIDTH = 120
_SHOWN = 5  # lines of a finding
_CELL = 40  # characters; JSON and the page have the rest
_COUNTED = 1000  # words and units that JSON lists


def as_text(report: DataReport) -> str:
    """Return the findings, then the tables."""
    lines = [verdict(report)]
    for finding in report.findings:
        lines += ["", *_finding(finding)]
    names = names_of(report)
    lines += ["", *_table(["", *names], rows_of_corpora(report))]
    lines += [
        "",
        *_wrapped(batch_caption(report), ""),
        *_table(["", *names[: len(training(report))]], rows_of_batches(report)),
    ]
    if report.notes:
        lines += ["", "Not checked"]
        for note in report.notes:
            lines += _wrapped(note, "  - ")
    return "\n".join(lines)


def _finding(finding: Finding) -> list[str]:
    lines = _wrapped(f"[{finding.severity}] {finding.headline} ({finding.name})", "")
    lines += [f"    {line.text()}" for line in finding.lines[:_SHOWN]]
    if finding.count > _SHOWN and finding.lines:
        lines.append(f"    and {finding.count - min(_SHOWN, len(finding.lines)):,} more")
    return [*lines, *_wrapped(finding.change, "    -> ")]


def _wrapped(text: str, prefix: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[_short(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]


def _short(cell: str) -> str:
    return cell if len(cell) <= _CELL else cell[: _CELL - 4] + " ..."


def as_json(report: DataReport) -> dict[str, object]:
    """Return everything as plain values."""
    return {
        "verdict": verdict(report),
        "findings": [
            {
                "name": finding.name,
                "severity": finding.severity,
                "title": finding.title,
                "change": finding.change,
                "count": finding.count,
                "lines": [line._asdict() for line in finding.lines],
            }
            for finding in report.findings
        ],
        "corpora": [_corpus(description) for description in report.corpora],
        "not_checked": report.notes,
        "settings": {"decode": report.settings.decode, **vars(report.settings.batches)},
    }


def _corpus(description: Description) -> dict[str, object]:
    headers, sounds, texts = description.headers, description.sounds, description.texts
    histograms = {
        "loud_db": sounds.loud,
        "floor_db": sounds.floor,
        "range_db": sounds.range,
        "seconds": headers.seconds,
    }
    values: dict[str, object] = {
        "manifest": description.corpus.path,
        "training": description.corpus.training,
        "utterances": len(description.corpus),
        "hours": headers.total_seconds / 3600,
        "bytes": headers.bytes,
        "lengths_s": {name: round(length(headers.seconds, place), 3) for name, place in PERCENTILES},
        "sample_rates": dict(by_value(description, lambda form: str(form.sample_rate))),
        "channels": dict(by_value(description, lambda form: str(form.channels))),
        "codecs": dict(by_value(description, lambda form: form.codec)),
        "speakers": description.speakers or None,
        "decoded": sounds.decoded,
        "histograms": {
            name: {"edges": edges.tolist(), "counts": counts.tolist()}
            for name, (edges, counts) in ((name, each.coarse(60)) for name, each in histograms.items())
        },
        "batches": None if description.batches is None else description.batches._asdict(),
    }
    if texts is not None:
        values["labels"] = {
            "lines": texts.lines,
            "letters_per_second": texts.usual.rate,
            "alphabet": dict(texts.units.most_common(_COUNTED)),
            "words": texts.num_words,
            "different_words": len(texts.words),
            "most_frequent_words": dict(texts.words.most_common(_COUNTED)),
        }
    return values
