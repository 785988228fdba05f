"""Transcripts: the words of an audio file and their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairseq.decoding.hypothesis import Hypothesis, Word
from fairseq.frames import ConvSpec, frame_centres, receptive_field


class TimedWord(NamedTuple):
    """A word and its time."""

    text: str
    start: float  # seconds
    end: float
    confidence: float  # in [0, 1]


@dataclass
class Transcript:
    """The result for one audio file: its words, or the error."""

    name: str
    text: str = ""
    words: list[TimedWord] = field(default_factory=list)
    confidence: float = 0.0  # mean of the words'
    duration: float = 0.0  # seconds
    alternatives: list[str] = field(default_factory=list)  # texts of the other hypotheses, if nbest > 1
    note: str | None = None  # remark about this result, such as silence
    error: str | None = None  # why there is no text


class FrameTimes:
    """Times of frames, from the feature extractor's spec.

    Each frame covers one stride around its centre: 320 i + 199.5 samples, plus or minus 10 ms, for base at 16 kHz.
    """

    def __init__(self, conv_layers: Sequence[ConvSpec], sample_rate: int, duration: float) -> None:
        self._first = (frame_centres(1, conv_layers)[0] + 0.5) / sample_rate
        self._stride = receptive_field(conv_layers)[1] / sample_rate
        self._duration = duration

    def start(self, frame: int) -> float:
        return round(max(0.0, self._first + (frame - 0.5) * self._stride), 4)

    def end(self, frame: int) -> float:
        return round(min(self._duration, self._first + (frame + 0.5) * self._stride), 4)

    def word(self, word: Word) -> TimedWord:
        return TimedWord(word.text, self.start(word.first), self.end(word.last), round(word.confidence, 4))


def from_hypotheses(
    name: str, hypotheses: Sequence[Hypothesis], times: FrameTimes, duration: float, note: str | None = None
) -> Transcript:
    """Build the transcript of a file from its hypotheses, best first."""
    best = hypotheses[0]
    words = [times.word(word) for word in best.words]
    others = [other.text for other in hypotheses[1:]]
    return Transcript(name, best.text, words, round(best.confidence, 4), round(duration, 4), others, note)
