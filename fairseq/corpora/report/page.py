"""The report as a page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fairseq.corpora.report.describing import (
    batch_caption,
    by_value,
    length,
    names_of,
    rows_of_batches,
    rows_of_corpora,
    training,
    verdict,
)
from fairseq.corpora.report.records import Finding, Histogram
from fairseq.corpora.report.report import DataReport, Description
from fairseq.pages.charts import Chart, Table
from fairseq.pages.page import Notice, Page, Paragraph, Section

_BINS = 40
_WORDS, _UNITS = 30, 200  # rows of tables


def data_page(report: DataReport) -> str:
    """Return the page as one file; raises ValueError if the extra `report` is not installed."""
    names = names_of(report)
    sections = [
        Section("Contents", [Table("Corpora", ["", *names], rows_of_corpora(report)), *_lengths(report)]),
        Section("Audio", [*_levels(report), *_forms(report)]),
        Section("Labels", _labels(report)),
        Section(
            "Batches", [Table(batch_caption(report), ["", *names[: len(training(report))]], rows_of_batches(report))]
        ),
        Section("Not checked", [Paragraph(note) for note in report.notes]),
    ]
    title = f"Data report: {', '.join(names)}"
    notices = [_notice(finding) for finding in report.findings]
    return Page(title, verdict(report), notices, [section for section in sections if section.parts]).html()


def _notice(finding: Finding) -> Notice:
    lines = [line.text() for line in finding.lines]
    more = max(0, finding.count - len(lines)) if lines else 0
    return Notice(finding.name, finding.severity, finding.headline, finding.change, lines, more)


def _lengths(report: DataReport) -> list[Chart]:
    described = [d for d in report.corpora if d.headers.seconds.total]
    if not described:
        return []
    middle = ", ".join(
        f"{name}: median {length(d.headers.seconds, 50):.1f} s"
        for name, d in zip(names_of(report), report.corpora, strict=True)
        if d.headers.seconds.total
    )
    return [_histogram(report, "Lengths of utterances", f"{middle}.", "length, s", lambda d: d.headers.seconds)]


def _levels(report: DataReport) -> list[Chart]:
    if not any(description.sounds.decoded for description in report.corpora):
        return []
    kinds: list[tuple[str, str, Callable[[Description], Histogram]]] = [
        ("Level of loud parts", "95th percentile of an utterance's frames", lambda d: d.sounds.loud),
        ("Noise floor", "10th percentile of an utterance's frames", lambda d: d.sounds.floor),
        ("Loud parts above the noise floor", "small values are noisy recordings", lambda d: d.sounds.range),
    ]
    charts = []
    for title, what, pick in kinds:
        middle = ", ".join(f"{pick(d).percentile(50):.0f} dB" for d in report.corpora if pick(d).total)
        charts.append(_histogram(report, title, f"{what[0].upper()}{what[1:]}; median {middle}.", "dB", pick))
    return charts


def _histogram(
    report: DataReport, title: str, summary: str, label: str, pick: Callable[[Description], Histogram]
) -> Chart:
    """Draw a histogram of each corpus: counts of one, shares of several, so that they compare."""
    histograms = {
        name: pick(description)
        for name, description in zip(names_of(report), report.corpora, strict=True)
        if pick(description).total
    }
    together = Histogram(next(iter(histograms.values())).edges)
    for histogram in histograms.values():
        together.merge(histogram)
    edges, _ = together.coarse(_BINS)
    series = {name: histogram.within(edges) for name, histogram in histograms.items()}
    if len(series) == 1:
        return Chart(title, summary, label, "utterances", edges, series, steps=True, log=False)
    shares = {name: 100 * counts / counts.sum() for name, counts in series.items()}
    return Chart(title, summary, label, "% of the utterances", edges, shares, steps=True)


def _forms(report: DataReport) -> list[Table]:
    rows = []
    for name, description in zip(names_of(report), report.corpora, strict=True):
        for form, count in by_value(description, lambda f: f"{f.codec}, {f.sample_rate:,} Hz, {f.channels} ch"):
            rows.append([name, form, f"{count:,}"])
    return [Table("Forms of files", ["corpus", "form", "files"], rows)] if rows else []


def _labels(report: DataReport) -> list[Table | Chart]:
    parts: list[Table | Chart] = []
    labelled = [d for d in report.corpora if d.texts is not None and d.texts.rate.total]
    if labelled:
        middle = ", ".join(f"{d.texts.usual.rate:.1f}" for d in labelled if d.texts is not None)
        summary = f"Median {middle}. Lines far from the others may have the transcript of another utterance."
        parts.append(_histogram(report, "Rate of letters", summary, "letters per second", _rates))
    for name, description in zip(names_of(report), report.corpora, strict=True):
        texts = description.texts
        if texts is None:
            continue
        total = max(1, texts.units.total())
        units = [[unit, f"{n:,}", f"{100 * n / total:.2f} %"] for unit, n in texts.units.most_common(_UNITS)]
        parts.append(Table(f"Alphabet of {name}", ["unit", "count", "share"], units, folded=True))
        words = [[word, f"{n:,}"] for word, n in texts.words.most_common(_WORDS)]
        parts.append(Table(f"Most frequent words of {name}", ["word", "count"], words, folded=True))
    return parts


def _rates(description: Description) -> Histogram:
    return description.texts.rate if description.texts is not None else Histogram(np.arange(2))
