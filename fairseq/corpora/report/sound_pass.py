"""The second pass: decode the audio and measure it."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.meter import Meter
from fairseq.corpora.report.records import Histogram, Sound, decibel_histogram
from fairseq.corpora.report.sound_rules import SOUND_RULES
from fairseq.data.audio.audio_utils import UnreadableAudio, check_samples, open_audio

PART = 16  # utterances per task
_BLOCK = 1 << 18  # samples decoded at a time


class Sounds:
    """What the decoded audio of a corpus is like; parts of it add up."""

    def __init__(self) -> None:
        self.decoded = 0
        self.loud, self.floor, self.range = decibel_histogram(), decibel_histogram(), decibel_histogram()
        self.hits = SOUND_RULES.no_hits()

    def histograms(self) -> list[Histogram]:
        return [self.loud, self.floor, self.range]

    def merge(self, other: Sounds) -> None:
        self.decoded += other.decoded
        for own, others in zip(self.histograms(), other.histograms(), strict=True):
            own.merge(others)
        for name, hits in other.hits.items():
            self.hits[name].merge(hits)


class Choice(NamedTuple):
    """Utterances of one corpus: a task of this pass."""

    corpus: int
    indices: np.ndarray  # int64


class Part(NamedTuple):
    """The result of a task."""

    choice: Choice
    sounds: Sounds
    digests: np.ndarray  # uint64, one per utterance; 0: unknown
    hashes: np.ndarray  # uint64, of all anchors
    owners: np.ndarray  # int64, the utterance of each anchor
    places: np.ndarray  # int64, the sample of each anchor in its utterance
    took: float  # seconds of one process
    audio: float  # seconds that were decoded


def measure_part(state: object, choice: Choice) -> Part:
    """Decode and measure a task's utterances; `state` is the list of corpora."""
    assert isinstance(state, list)
    corpus: Corpus = state[choice.corpus]
    began, audio = time.perf_counter(), 0.0
    sounds = Sounds()
    digests = np.zeros(len(choice.indices), dtype=np.uint64)
    hashes: list[int] = []
    owners: list[int] = []
    places: list[int] = []
    loud, floor, steps = [], [], []
    for row, index in enumerate(choice.indices.tolist()):
        sound, meter = measure(corpus.place(index), corpus.start(index), int(corpus.sizes[index]))
        SOUND_RULES.apply(index, sound, sounds.hits)
        if sound.problem is not None or meter is None:
            continue
        digests[row] = meter.digest()
        hashes += meter.anchors.hashes
        places += meter.anchors.places
        owners += [index] * len(meter.anchors.hashes)
        loud.append(sound.loud)
        floor.append(sound.floor)
        steps.append(sound.loud - sound.floor)
        audio += sound.seconds
    sounds.decoded = len(loud)
    for histogram, values in zip(sounds.histograms(), (loud, floor, steps), strict=True):
        histogram.add(np.asarray(values))
    columns = (np.asarray(owners, dtype=np.int64), np.asarray(places, dtype=np.int64))
    took = time.perf_counter() - began
    return Part(choice, sounds, digests, np.asarray(hashes, dtype=np.uint64), *columns, took, audio)


def measure(place: str, start: int, size: int) -> tuple[Sound, Meter | None]:
    """Decode and measure one utterance.

    Args:
        place: the file.
        start, size: its first sample, and how many, at the file's own rate.
    """
    try:
        with open_audio(place) as file:
            meter = Meter(file.samplerate, file.channels)
            if start:
                file.seek(start)
            done = 0
            while done < size:
                block = file.read(min(_BLOCK, size - done), dtype="float32", always_2d=True)
                if len(block) == 0:
                    return Sound(f"it ends after {start + done:,} samples, {start + size:,} are needed"), None
                check_samples(block.ravel(), (start + done) * file.channels, file.samplerate * file.channels)
                meter.feed(block)
                done += len(block)
            return meter.result(), meter
    except (UnreadableAudio, OSError, ValueError, EOFError, RuntimeError) as error:  # RuntimeError: soundfile's own
        return Sound(str(error) or type(error).__name__), None
