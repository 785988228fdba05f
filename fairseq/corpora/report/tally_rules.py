"""Findings about files that differ from most of their corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.header_pass import Form, Headers
from fairseq.corpora.report.records import ERROR, WARNING, Finding, Hits


def root(headers: Headers, corpus: Corpus) -> Finding | None:
    """The folder in line 1 does not exist, so no relative path does."""
    problem = corpus.manifest.root_problem() if headers.hits["missing"].count else None
    if problem is None:
        return None
    return Finding("manifest-root", ERROR, problem, "")


def sample_rates(headers: Headers, corpus: Corpus) -> Finding | None:
    """Files have other sample rates than most."""
    return _differ(
        headers,
        corpus,
        lambda form: form.sample_rate,
        lambda rate: f"{rate:,} Hz",
        "sample-rates",
        "Other sample rates than most files ({})",
        "Convert them (fairseq-pack --resample), or set task.resample=true to convert them while reading. Speech "
        "recorded at a lower rate stays narrow-band.",
    )


def channel_counts(headers: Headers, corpus: Corpus) -> Finding | None:
    """Files have other numbers of channels than most."""
    return _differ(
        headers,
        corpus,
        lambda form: form.channels,
        lambda channels: f"{channels} channels" if channels > 1 else "1 channel",
        "channel-counts",
        "Other numbers of channels than most files ({})",
        "Check that each channel is the same speech: training averages channels.",
    )


def _differ(
    headers: Headers,
    corpus: Corpus,
    value: Callable[[Form], int],
    shown: Callable[[int], str],
    name: str,
    title: str,
    change: str,
) -> Finding | None:
    counts: Counter[int] = Counter()
    for form, count in headers.forms.items():
        counts[value(form)] += count
    if len(counts) < 2:
        return None
    usual = counts.most_common(1)[0][0]
    hits = Hits()
    for form, examples in headers.examples.items():
        if value(form) != usual:
            for index, _ in examples.shown():
                hits.add(index, shown(value(form)))
    lines = [corpus.line(index, evidence) for index, evidence in hits.shown()]
    return Finding(name, WARNING, title.format(shown(usual)), change, counts.total() - counts[usual], lines)
