"""Rules over headers: what is wrong with a file, or with its line, before it is decoded."""

from __future__ import annotations

from fairseq.corpora.report.records import ERROR, NOTE, WARNING, Header
from fairseq.corpora.report.rules import Rules
from fairseq.data.audio.quarantine import is_longer

HEADER_RULES: Rules[Header] = Rules()
_RECEPTIVE_FIELD = 0.025  # seconds: what wav2vec 2.0's feature extractor needs for one frame
_LONG = 60.0  # seconds


@HEADER_RULES.rule(
    "missing",
    ERROR,
    "Files that do not exist",
    "Correct the root in line 1, add the files, or create the manifest again with fairseq-manifest.",
)
def missing(header: Header) -> str | None:
    return "" if header.missing else None


@HEADER_RULES.rule(
    "unreadable",
    ERROR,
    "Files that do not open as audio",
    "Replace these files, or create the manifest again with fairseq-manifest. Training replaces them with other "
    "utterances, up to task.max_quarantined_share.",
)
def unreadable(header: Header) -> str | None:
    return None if header.missing else header.problem


@HEADER_RULES.rule(
    "no-samples",
    ERROR,
    "Utterances too short for a single frame",
    "Remove these lines. A frame of wav2vec 2.0 needs 25 ms.",
)
def no_samples(header: Header) -> str | None:
    if header.problem is not None or header.size >= _RECEPTIVE_FIELD * header.sample_rate:
        return None
    return f"{header.size} samples"


@HEADER_RULES.rule(
    "shorter-than-line",
    ERROR,
    "Files that end before their line says",
    "Create the manifest again with fairseq-manifest. Training replaces such files with other utterances.",
)
def shorter(header: Header) -> str | None:
    needed = header.start + header.size
    if header.problem is not None or header.frames >= needed:
        return None
    return f"{header.frames:,} samples, the line needs {needed:,}"


@HEADER_RULES.rule(
    "longer-than-line",
    WARNING,
    "Files longer than their line says",
    "Create the manifest again with fairseq-manifest: training ignores what is past the stated length.",
)
def longer(header: Header) -> str | None:
    if header.problem is not None or header.is_segment or not is_longer(header.frames, header.size):
        return None
    return f"{header.frames:,} samples, the line says {header.size:,}"


@HEADER_RULES.rule(
    "long",
    NOTE,
    "Utterances longer than a minute",
    "Cut them at pauses with fairseq-segment: training crops at task.max_sample_size, and so uses little of them.",
)
def too_long(header: Header) -> str | None:
    seconds = header.size / header.sample_rate if header.sample_rate else 0.0
    return f"{seconds:,.0f} s" if seconds > _LONG else None
