"""What came of a corpus: hours in, speech, kept, and left out, with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fairseq.corpora.cuts.journal import Entry

_BINS = 100  # per second of length
_SHARES = (5, 25, 50, 75, 95)  # percentiles


@dataclass
class Summary:
    """Sums over recordings, in seconds. kept + pauses + short = total."""

    recordings: int = 0
    segments: int = 0
    total: float = 0.0
    speech: float = 0.0
    kept: float = 0.0
    short: float = 0.0
    short_pieces: int = 0
    silent: int = 0  # recordings without speech
    errors: dict[int, str] = field(default_factory=dict)  # by line, 0: the first recording
    lengths: Counter[int] = field(default_factory=Counter)  # segments by length in hundredths of a second

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Summary:
        summary = cls()
        for entry in entries:
            summary.add(entry)
        return summary

    def add(self, entry: Entry) -> None:
        self.recordings += 1
        found = entry.found
        if found is None:
            self.errors[entry.line] = entry.error or "unknown"
            return
        self.total += found.frames / found.rate
        self.speech += found.speech / found.rate
        self.silent += found.speech == 0
        self.segments += len(found.segments)
        self.kept += sum(count for _, count in found.segments) / found.rate
        self.short_pieces += len(found.short)
        self.short += sum(count for _, count in found.short) / found.rate
        self.lengths.update(count * _BINS // found.rate for _, count in found.segments)

    @property
    def pauses(self) -> float:
        return self.total - self.kept - self.short

    def percentiles(self) -> dict[int, float]:
        """Return lengths of segments in seconds: of those, this percentage is shorter."""
        if not self.lengths:
            return {}
        lengths = np.array(sorted(self.lengths))
        ranks = np.cumsum([self.lengths[length] for length in lengths.tolist()]) / self.segments * 100
        return {share: float(lengths[np.searchsorted(ranks, share)]) / _BINS for share in _SHARES}

    def to_dict(self, names: dict[int, str]) -> dict[str, object]:
        """Return everything as plain values.

        Args:
            names: of the recordings in `errors`.
        """
        hours = {"in": self.total, "speech": self.speech, "kept": self.kept}
        left_out = {"pauses": self.pauses, "shorter than --min": self.short}
        return {
            "recordings": self.recordings,
            "segments": self.segments,
            "hours": {key: round(value / 3600, 4) for key, value in hours.items()},
            "hours_left_out": {key: round(value / 3600, 4) for key, value in left_out.items()},
            "pieces_shorter_than_min": self.short_pieces,
            "recordings_without_speech": self.silent,
            "unreadable": {names[line]: error for line, error in self.errors.items()},
            "seconds_per_segment": {
                "mean": round(self.kept / self.segments, 2) if self.segments else None,
                **{f"p{share}": value for share, value in self.percentiles().items()},
            },
        }

    def table(self, shortest: float) -> str:
        """Return a table for a terminal."""
        rows = [
            ("in", self.total, f"recordings: {self.recordings - len(self.errors):,}"),
            ("speech", self.speech, f"recordings without any: {self.silent:,}"),
            ("kept", self.kept, f"segments: {self.segments:,}"),
            ("left out: pauses", self.pauses, ""),
            (f"left out: shorter than {shortest:g} s", self.short, f"pieces: {self.short_pieces:,}"),
        ]
        lines = [f"{'':<28}{'hours':>9}{'share':>8}"]
        for name, seconds, note in rows:
            share = f"{100 * seconds / self.total:.1f} %" if self.total else ""
            lines.append(f"{name:<28}{seconds / 3600:>9.2f}{share:>8}  {note}".rstrip())
        if self.errors:
            lines.append(f"{'left out: unreadable':<28}{'':>17}  recordings: {len(self.errors):,}")
        if self.segments:
            shares = ", ".join(f"{value:.1f} (p{share})" for share, value in self.percentiles().items())
            lines.append(f"seconds per segment: {self.kept / self.segments:.1f} (mean), {shares}")
        return "\n".join(lines)
