"""The report's numbers as rows, for the terminal, JSON and the page alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from fairseq.corpora.report.header_pass import Form
from fairseq.corpora.report.records import ERROR, NOTE, WARNING, Histogram, counted
from fairseq.corpora.report.report import DataReport, Description

_FORMS = 4  # values of a kind that a cell lists
_BATCHES = (
    "batches",
    "utterances in them",
    "left out, too short",
    "cropped",
    "audio cropped away",
    "padding and filler",
    "utterances per batch",
    "seconds per batch",
    "shapes",
)
PERCENTILES = (("shortest", 0), ("5 %", 5), ("median", 50), ("95 %", 95), ("longest", 100))


def verdict(report: DataReport) -> str:
    """Return a sentence on the whole."""
    if not report.findings:
        return "Nothing found that is wrong with this data."
    kinds = ((ERROR, "error"), (WARNING, "warning"), (NOTE, "note"))
    parts = [counted(report.count(severity), noun) for severity, noun in kinds if report.count(severity)]
    return f"Found: {', '.join(parts)}."


def name_of(description: Description) -> str:
    return description.corpus.title if description.corpus.training else f"{description.corpus.title} (validation)"


def names_of(report: DataReport) -> list[str]:
    """Return a different name for each corpus: its title, or its path if titles repeat."""
    names = [name_of(description) for description in report.corpora]
    if len(set(names)) == len(names):
        return names
    return [description.corpus.path for description in report.corpora]


def training(report: DataReport) -> list[Description]:
    return [description for description in report.corpora if description.corpus.training]


def length(histogram: Histogram, percent: int) -> float:
    """Return a percentile of lengths in seconds; the extremes are exact."""
    if histogram.total == 0:
        return 0.0
    return histogram.least if percent == 0 else histogram.most if percent == 100 else histogram.percentile(percent)


def by_value(description: Description, value: Callable[[Form], str]) -> list[tuple[str, int]]:
    """Return how many files have each value, most frequent first."""
    counts: Counter[str] = Counter()
    for form, count in description.headers.forms.items():
        counts[value(form)] += count
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _cell(values: Sequence[tuple[str, int]]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return values[0][0]
    shown = ", ".join(f"{value}: {count:,}" for value, count in values[:_FORMS])
    return shown if len(values) <= _FORMS else f"{shown} ..."


def rows_of_corpora(report: DataReport) -> list[list[str]]:
    """Return a row for each fact, with a column for each corpus."""
    facts: list[tuple[str, Callable[[Description], str]]] = [
        ("utterances", lambda d: f"{len(d.corpus):,}"),
        ("hours", lambda d: f"{d.headers.total_seconds / 3600:,.2f}"),
        *((f"{name}, s", lambda d, p=place: f"{length(d.headers.seconds, p):,.2f}") for name, place in PERCENTILES),
        ("sample rate, Hz", lambda d: _cell(by_value(d, lambda form: f"{form.sample_rate}"))),
        ("channels", lambda d: _cell(by_value(d, lambda form: f"{form.channels}"))),
        ("codec", lambda d: _cell(by_value(d, lambda form: form.codec))),
        ("bytes", lambda d: f"{d.headers.bytes:,}" if d.headers.bytes else "-"),
        ("speakers", lambda d: f"{d.speakers:,}" if d.speakers else "unknown"),
        ("decoded", lambda d: f"{d.sounds.decoded:,}"),
        ("loud parts, dB", lambda d: _median(d.sounds.loud)),
        ("noise floor, dB", lambda d: _median(d.sounds.floor)),
        ("words", lambda d: "-" if d.texts is None else f"{d.texts.num_words:,}"),
        ("different words", lambda d: "-" if d.texts is None else f"{len(d.texts.words):,}"),
        ("letters per second", lambda d: "-" if d.texts is None else f"{d.texts.usual.rate:.1f}"),
        ("alphabet", lambda d: "-" if d.texts is None else alphabet(d)),
    ]
    return [[name, *(fact(description) for description in report.corpora)] for name, fact in facts]


def alphabet(description: Description, most: int = 60) -> str:
    """Return the units of the labels, sorted."""
    if description.texts is None:
        return ""
    units = sorted(description.texts.units)
    return " ".join(units[:most]) + (f" ... ({len(units):,} in all)" if len(units) > most else "")


def _median(histogram: Histogram) -> str:
    return f"{histogram.percentile(50):.0f}" if histogram.total else "-"


def rows_of_batches(report: DataReport) -> list[list[str]]:
    """Return a row for each fact about the batches of an epoch."""
    rows: list[list[str]] = []
    columns = [_batch_column(description) for description in training(report)]
    for place, name in enumerate(_BATCHES):
        rows.append([name, *(column[place] for column in columns)])
    return rows


def _batch_column(description: Description) -> list[str]:
    plan, rate = description.batches, description.headers.usual_rate() or 16_000
    if plan is None:
        return ["0", "0", f"{len(description.corpus):,}", *["-"] * (len(_BATCHES) - 3)]
    return [
        f"{plan.batches:,}",
        f"{plan.utterances:,}",
        f"{plan.left_out:,}",
        f"{plan.cropped:,}",
        f"{100 * plan.lost:.1f} %",
        f"{100 * plan.padding:.1f} %",
        f"{plan.rows[0]} to {plan.rows[2]}, mean {plan.rows[1]:.1f}",
        f"{plan.samples[0] / rate:.1f} to {plan.samples[2] / rate:.1f}, mean {plan.samples[1] / rate:.1f}",
        f"{plan.shapes:,}",
    ]


def batch_caption(report: DataReport) -> str:
    settings = report.settings.batches
    buckets = f", {settings.num_batch_buckets} buckets, padded" if settings.num_batch_buckets else ", cropped to equal"
    return (
        f"Batches of an epoch: at most {settings.max_tokens:,} samples, utterances of {settings.min_sample_size:,} to "
        f"{settings.max_sample_size:,} samples{buckets}"
    )
