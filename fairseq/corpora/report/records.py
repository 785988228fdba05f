"""The records that the passes over a corpus make, one of each kind per utterance, and what is found in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # most severe first

SHOWN = 50  # lines kept per finding: memory must not grow with the corpus


class Header(NamedTuple):
    """A line of a manifest, and the header of its file."""

    size: int  # samples that the line states
    start: int  # first sample of the utterance in its file
    is_segment: bool  # whether the manifest has a column of starts
    missing: bool = False  # whether the file does not exist
    problem: str | None = None  # why the header cannot be read; then the fields below are 0
    sample_rate: int = 0  # Hz
    frames: int = 0  # of the whole file
    channels: int = 0
    codec: str = ""  # such as "FLAC PCM_16"


class Sound(NamedTuple):
    """Measurements of an utterance's decoded samples. Levels are in dB relative to full scale."""

    problem: str | None  # why it cannot be decoded; then the other fields are 0
    seconds: float = 0.0
    sample_rate: int = 0  # Hz
    peak: float = 0.0  # largest absolute value
    dc: float = 0.0  # mean
    level: float = 0.0  # of the whole utterance, without its mean
    loud: float = 0.0  # 95th percentile of the levels of 20 ms frames
    floor: float = 0.0  # 10th percentile of them
    clipped: float = 0.0  # share of samples in runs at the largest or smallest value
    resolution: float = 0.0  # smallest step between two samples
    constant: float = 0.0  # longest stretch of one constant value, in seconds
    bandwidth: float = 0.0  # Hz; above it there is nothing but rounding noise; 0: up to half the sample rate
    channel_note: str | None = None  # what is wrong with its channels


class Text(NamedTuple):
    """An utterance's labels."""

    units: tuple[str, ...]  # of the letter labels (.ltr), without word ends
    words: tuple[str, ...] | None  # of the word labels (.wrd); None: no such file
    spelled: tuple[str, ...]  # the words that the letters spell
    seconds: float
    unknown: tuple[str, ...]  # units that the dictionary does not have

    def letters(self) -> set[str]:
        """Return the different characters of the units."""
        return set("".join(self.units))


class Usual(NamedTuple):
    """What is usual in the labels of a corpus, to judge a line by."""

    rate: float  # median units per second
    slow_rate: float  # 5th percentile
    fast_rate: float  # 95th percentile
    script: str  # of most letters, such as LATIN
    script_share: float
    case: str  # of most letters with a case: "upper" or "lower"
    case_share: float


class Line(NamedTuple):
    """A line of a manifest that a finding names."""

    manifest: str
    number: int  # from 1: the root is line 1
    name: str
    evidence: str

    def text(self) -> str:
        return f"{self.manifest}:{self.number}: {self.name}" + (f" ({self.evidence})" if self.evidence else "")


@dataclass
class Finding:
    """Something that is wrong or unusual in a corpus."""

    name: str  # short, and stable across releases
    severity: str  # one of SEVERITIES
    title: str
    change: str  # what to do
    count: int = 0  # lines
    lines: list[Line] = field(default_factory=list)  # at most SHOWN, the first ones

    @property
    def headline(self) -> str:
        return self.title if not self.count else f"{self.title}: {counted(self.count, 'line')}"


def counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


class Hits:
    """The utterances that a rule names: their number, and the first ones with their evidence."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []  # (utterance, evidence)

    def add(self, utterance: int, evidence: str) -> None:
        self.count += 1
        self.first.append((utterance, evidence))
        if len(self.first) >= 2 * SHOWN:
            self._trim()

    def merge(self, other: Hits) -> None:
        self.count += other.count
        self.first += other.first
        self._trim()

    def _trim(self) -> None:
        self.first = sorted(self.first)[:SHOWN]  # the same ones, whatever order the workers finish in

    def shown(self) -> list[tuple[int, str]]:
        self._trim()
        return self.first


class Histogram:
    """Counts of values in bins with fixed edges: of constant size, and workers' counts add up exactly.

    Args:
        edges: ascending, N + 1; values outside count in the first or last bin.
    """

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        self.least, self.most = float("inf"), float("-inf")

    def add(self, values: np.ndarray) -> None:
        if len(values) == 0:
            return
        places = np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, len(self.counts) - 1)
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))

    def merge(self, other: Histogram) -> None:
        self.counts += other.counts
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """Return the middle of the bin of this percentile, within the values' range; 0 without values."""
        if self.total == 0:
            return 0.0
        bin_ = int(np.searchsorted(np.cumsum(self.counts), max(1, np.ceil(self.total * percent / 100))))
        middle = (self.edges[bin_] + self.edges[bin_ + 1]) / 2
        return float(min(max(middle, self.least), self.most))

    def coarse(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (edges, counts) of at most about `bins` bins over the values' range, for a plot."""
        filled = np.flatnonzero(self.counts)
        if len(filled) == 0:
            return self.edges[:2], self.counts[:1]
        first, last = int(filled[0]), int(filled[-1]) + 1
        step = -(-(last - first) // bins)
        first -= first % step
        starts = np.arange(first, last, step)
        counts = np.add.reduceat(self.counts[:last], starts)
        return self.edges[np.minimum(np.append(starts, starts[-1] + step), len(self.edges) - 1)], counts

    def within(self, edges: np.ndarray) -> np.ndarray:
        """Return the counts between these edges, some of the histogram's own; what is outside is left out."""
        sums = np.concatenate([[0], np.cumsum(self.counts)])
        return np.diff(sums[np.searchsorted(self.edges, edges)])


def seconds_histogram() -> Histogram:
    """Lengths: steps of 0.05 s up to 2 minutes, then of 5 % up to a day."""
    long = 120 * 1.05 ** np.arange(1, 136)
    return Histogram(np.concatenate([0.05 * np.arange(2401), long]))


def decibel_histogram() -> Histogram:
    return Histogram(np.arange(-120, 121))
