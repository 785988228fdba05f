"""Cut aligned recordings into training segments: a manifest with a third column, and its labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fairseq.alignment.spelling import STAR
from fairseq.corpora.cuts.detector import RATE
from fairseq.corpora.cuts.planning import Planner
from fairseq.corpora.cuts.runs import Piece
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.data.transcripts import letters
from fairseq.decoding.tokens import Tokens
from fairseq.inference.alignment import AlignedWord, Alignment

_PAUSE = 0.2  # seconds between two words from which a cut is free of speech: units end early in CTC


class TextSegment(NamedTuple):
    """A part of a recording with its words."""

    start: float  # seconds
    end: float
    words: tuple[AlignedWord, ...]

    @property
    def text(self) -> str:
        return " ".join(word.normal for word in self.words)

    @property
    def agreement(self) -> float:
        """The smallest agreement of its words."""
        return min(word.agreement for word in self.words)


@dataclass
class Kept:
    """Seconds of audio that became segments, and those that did not."""

    total: float = 0.0
    segments: int = 0
    kept: float = 0.0
    left_out: dict[str, float] = field(default_factory=dict)  # reason -> seconds

    def add(self, reason: str, seconds: float) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0.0) + seconds


def segments_of(alignment: Alignment, settings: CutSettings, min_agreement: float, kept: Kept) -> list[TextSegment]:
    """Cut a recording at pauses between its words.

    Cuts are planned as by `fairseq-segment`, with words instead of stretches of speech: see
    `fairseq.corpora.cuts.planning`. Other speech (`<star>`), and words with letters that the dictionary does not have,
    are in no segment.

    Args:
        min_agreement: a segment with a word below it is left out.
        kept: counts of the whole run, updated in place.
    """
    found: list[TextSegment] = []
    for words, begin, end in _stretches(alignment):
        for start, stop in _planned(words, end, settings):
            segment = _segment(words, max(start / RATE, begin), min(stop / RATE, end))
            length = segment.end - segment.start
            if length < settings.shortest:
                kept.add("shorter than --min", length)
            elif length > settings.longest:
                kept.add("longer than --max", length)
            elif segment.agreement < min_agreement:
                kept.add("below --min-agreement", length)
            else:
                found.append(segment)
                kept.segments, kept.kept = kept.segments + 1, kept.kept + length
    kept.total += alignment.duration
    return found


def _stretches(alignment: Alignment) -> Iterable[tuple[list[AlignedWord], float, float]]:
    """Yield the words between other speech, with the times at which their stretch begins and ends."""
    words: list[AlignedWord] = []
    begin = 0.0
    for word in alignment.words:
        if STAR not in word.normal:
            words.append(word)
            continue
        if words:
            yield words, begin, word.start
        words, begin = [], word.end
    if words:
        yield words, begin, alignment.duration


def _planned(words: list[AlignedWord], end: float, settings: CutSettings) -> list[tuple[int, int]]:
    """Return first and last sample, at 16 kHz, of the segments of a stretch, short ones included."""
    planner = Planner(settings)
    for number, word in enumerate(words):
        gap = (words[number + 1].start if number + 1 < len(words) else end) - word.end
        strain = None if gap >= _PAUSE else 2 - max(0.0, gap) / _PAUSE  # from 1, a clear gap, to 2: as within speech
        planner.add(Piece(round(word.start * RATE), round(word.end * RATE), strain))
    planner.finish(round(end * RATE))
    return sorted([*planner.segments, *planner.short])


def _segment(words: list[AlignedWord], start: float, end: float) -> TextSegment:
    own = tuple(word for word in words if start <= (word.start + word.end) / 2 < end)
    return TextSegment(start, end, own)


class SegmentWriter:
    """Writes a manifest of segments, NAME.tsv, with the labels NAME.wrd and NAME.ltr, when it is closed.

    Args:
        name: of the manifest.
        root: line 1 of the manifest.
        tokens: of the model; only letters have a NAME.ltr.
    """

    def __init__(self, folder: Path, name: str, root: str, tokens: Tokens) -> None:
        self._folder, self._name, self._tokens = folder, name, tokens
        self._lines: dict[str, list[bytes]] = {"tsv": [os.fsencode(root)], "wrd": []}
        if tokens.delimiter is not None:
            self._lines["ltr"] = []

    def add(self, path: str, first: int, rate: int, segments: Iterable[TextSegment]) -> None:
        """Add the segments of a recording.

        Args:
            path: as in the manifest.
            first: frame of the file at which the recording begins.
            rate: sample rate of the file.
        """
        for segment in segments:
            start, end = round(segment.start * rate), round(segment.end * rate)
            self._lines["tsv"].append(b"%s\t%d\t%d" % (os.fsencode(path), end - start, first + start))
            self._lines["wrd"].append(segment.text.encode())
            if "ltr" in self._lines:
                self._lines["ltr"].append(letters(segment.text).encode())

    def write(self) -> Path:
        """Write the files, each in one step; returns the manifest's path."""
        for ending, lines in sorted(self._lines.items()):  # ltr, tsv, wrd
            path = self._folder / f"{self._name}.{ending}"
            temporary = path.with_name(path.name + ".part")
            temporary.write_bytes(b"".join(line + b"\n" for line in lines))
            os.replace(temporary, path)
        return self._folder / f"{self._name}.tsv"
