"""Align audio with its text: `align`, and the result with times in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fairseq.alignment.columns import Columns
from fairseq.alignment.spelling import STAR, Spelling, spell
from fairseq.alignment.timing import WordFrames, words_of
from fairseq.alignment.viterbi import Viterbi
from fairseq.frames import frames_for_samples
from fairseq.inference.audio import Audio, AudioSource
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import read_windows
from fairseq.inference.transcript import FrameTimes, TimedWord, Transcript
from fairseq.inference.windows import WindowSettings

EDGE = 0.1  # seconds by which a word may reach beyond the frames of its letters


class AlignedUnit(NamedTuple):
    """A letter, or another unit of the dictionary, and its time."""

    text: str
    start: float  # seconds
    end: float
    score: float  # mean log-probability of its frames


class AlignedWord(NamedTuple):
    """A word, or a stretch of other speech (`<star>`), and its time."""

    text: str  # as in the given text
    normal: str  # in the dictionary's letters, with STAR for others
    start: float  # seconds
    end: float
    score: float  # mean log-probability of its units' frames
    confidence: float  # the same as a probability, as in transcripts
    agreement: float  # in (0, 1]: 1 if the model hears exactly this; see WordFrames
    units: tuple[AlignedUnit, ...]

    @property
    def is_star(self) -> bool:
        return self.text == STAR

    def reaching(self, start: float, end: float) -> AlignedWord:
        """Return the word, and with it its first and last unit, with another start and end."""
        units = list(self.units)
        if units:
            units[0] = units[0]._replace(start=start)
            units[-1] = units[-1]._replace(end=end)
        return self._replace(start=start, end=end, units=tuple(units))


@dataclass
class Alignment:
    """The result for one recording: its words with times, or the error."""

    name: str
    duration: float = 0.0  # seconds
    words: list[AlignedWord] = field(default_factory=list)
    score: float = 0.0  # log-probability of the whole path
    notes: list[str] = field(default_factory=list)  # what was left out of the text
    error: str | None = None

    @property
    def spoken(self) -> list[AlignedWord]:
        """The words without other speech."""
        return [word for word in self.words if not word.is_star]

    def transcript(self) -> Transcript:
        """Return the words as a transcript, for subtitles."""
        words = [TimedWord(word.text, word.start, word.end, round(word.confidence, 4)) for word in self.spoken]
        confidence = round(float(np.mean([word.confidence for word in words])), 4) if words else 0.0
        text = " ".join(word.text for word in words)
        return Transcript(self.name, text, words, confidence, self.duration, error=self.error)


def align(
    model: SpeechModel | str | os.PathLike[str],
    audio: Audio,
    text: str | Iterable[str],
    *,
    missing: str = "error",
    star: bool = False,
    windows: WindowSettings | None = None,
    device: str = "cpu",
    precision: str = "auto",
    tick: Callable[[], None] | None = None,
) -> Alignment:
    """Align audio with its text.

    The path is the best one through the whole text, however long it is. The model's outputs of long audio come from
    overlapping windows, as for transcription; memory does not grow with the audio, apart from the result.

    Args:
        model: a fine-tuned checkpoint, or a SpeechModel.
        audio: a path, a segment, or a waveform; see `fairseq.inference.audio.open_source`.
        text: the words, as one string or as lines; `<star>` stands for speech that the text lacks.
        missing: what becomes of characters that the dictionary does not have: error, star or drop.
        star: other speech may be before, between and after all words.
        windows: window length and overlap for long audio.
        device: device of a model that is loaded here.
        precision: precision of a model that is loaded here.
        tick: called after each window.
    Raises:
        FileNotFoundError: the checkpoint or the audio does not exist.
        ValueError: one of them cannot be read, the checkpoint is not fine-tuned, or the text does not fit.
    """
    if not isinstance(model, SpeechModel):
        model = SpeechModel.load(model, device, precision)
    lines = text.splitlines() if isinstance(text, str) else text
    spelling = spell(lines, model.dictionary(), missing, star)
    return align_spelled(model, audio, spelling, WindowSettings() if windows is None else windows, tick)


def align_spelled(
    model: SpeechModel,
    audio: Audio,
    spelling: Spelling,
    windows: WindowSettings,
    tick: Callable[[], None] | None = None,
) -> Alignment:
    """Align audio with a text that is spelled in the model's units; raises the same errors as `align`."""
    source = model.open(audio)
    name = os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else source.name
    return align_outputs(model, name, spelling, source.num_samples, _outputs(model, source, windows, tick))


def _outputs(
    model: SpeechModel, source: AudioSource, windows: WindowSettings, tick: Callable[[], None] | None
) -> Iterator[np.ndarray]:
    for window, wave in read_windows(model, source, windows):
        yield model.log_probs([wave])[0][window.keep]
        if tick is not None:
            tick()


def align_outputs(
    model: SpeechModel, name: str, spelling: Spelling, num_samples: int, outputs: Iterable[np.ndarray]
) -> Alignment:
    """Align a model's outputs with a spelled text.

    Args:
        name: of the recording.
        num_samples: its samples, at the model's sample rate.
        outputs: log-probabilities, T x V each, in order.
    """
    columns = Columns(spelling.units, model.dictionary())
    best: list[np.ndarray] = []
    with Viterbi(columns.labels, frames_for_samples(num_samples, model.conv_layers)) as viterbi:
        for log_probs in outputs:
            emissions, largest = columns.of(log_probs)
            best.append(largest)
            viterbi.feed(emissions)
        path = viterbi.finish()
    duration = num_samples / model.sample_rate
    times = FrameTimes(model.conv_layers, model.sample_rate, duration)
    found = words_of(path, np.concatenate(best), spelling)
    words = widened([_timed(word, times) for word in found], duration)
    return Alignment(name, round(duration, 4), words, round(path.score, 4), spelling.notes())


def _timed(word: WordFrames, times: FrameTimes) -> AlignedWord:
    units = tuple(
        AlignedUnit(unit.text, times.start(unit.first), times.end(unit.last), round(unit.score, 4))
        for unit in word.units
    )
    return AlignedWord(
        word.text,
        word.normal,
        times.start(word.first),
        times.end(word.last),
        round(word.score, 4),
        round(word.confidence, 4),
        round(word.agreement, 4),
        units,
    )


def widened(words: list[AlignedWord], duration: float) -> list[AlignedWord]:
    """Widen words into the blanks next to them: up to half of what lies between two words, and up to `EDGE`.

    CTC predicts a letter in the middle of its sound, for one or two frames. On 849 synthetic words of known times, the
    median error of a boundary is 91 ms without this and 25 ms with it (tests/drills/alignment.py).
    """
    ends = [0.0, *(word.end for word in words)]
    starts = [*(word.start for word in words), duration]
    gaps = [start - end for end, start in zip(ends, starts, strict=True)]  # before each word, and after the last
    inner = range(1, len(words))
    room = [min(EDGE, max(0.0, gap / 2 if number in inner else gap)) for number, gap in enumerate(gaps)]
    return [
        word.reaching(round(word.start - before, 4), round(word.end + after, 4))
        for word, before, after in zip(words, room[:-1], room[1:], strict=True)
    ]
