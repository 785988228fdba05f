"""The segments of one recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fairseq.corpora.cuts.detector import RATE, Detector
from fairseq.corpora.cuts.planning import Planner
from fairseq.corpora.cuts.runs import Piece, SpeechRuns
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.corpora.cuts.sound import windows
from fairseq.data.audio.audio_utils import open_audio


class Recording(NamedTuple):
    """What was found in one line of a manifest; all lengths in frames at the file's own rate."""

    rate: int  # Hz
    frames: int
    speech: int
    segments: list[tuple[int, int]]  # (start, frames), from the line's own first frame
    short: list[tuple[int, int]]  # speech left out because it is shorter than --min; the same form


def cut(
    place: str,
    start: int,
    frames: int,
    detector: Detector,
    settings: CutSettings,
    tick: Callable[[], None] = lambda: None,
) -> Recording:
    """Find the segments of a recording, reading it once from beginning to end at constant memory.

    Args:
        place: a file, archive:offset:length, or a URL.
        start, frames: the section of it, at its own rate.
        detector: is reset first.
        tick: called for each stretch of speech.
    Raises:
        UnreadableAudio: the file cannot be decoded, ends early, or contains NaN or infinity.
        ValueError: a package of the extra `vad` is missing.
    """
    with open_audio(place) as file:
        rate = file.samplerate
        end = frames * RATE // rate
        planner = Planner(settings)
        for piece in speech(detector, settings, windows(file, start, frames)):
            planner.add(piece._replace(end=min(piece.end, end)))
            tick()
        planner.finish(end)

    def own(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        edges = [(first * rate // RATE, min(last * rate // RATE, frames)) for first, last in spans]
        return [(first, last - first) for first, last in edges]

    return Recording(rate, frames, planner.speech * rate // RATE, own(planner.segments), own(planner.short))


def speech(detector: Detector, settings: CutSettings, sound: Iterable[np.ndarray]) -> Iterator[Piece]:
    """Yield the speech of a recording, given as windows of 16 kHz samples (see `sound.windows`)."""
    detector.reset()
    runs = SpeechRuns(settings)
    for window in sound:
        yield from runs.feed(detector.probabilities(window), window)
    yield from runs.finish()
