"""Recognise many utterances: short ones in batches, long ones in windows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fairseq.decoding.hypothesis import Hypothesis
from fairseq.inference.audio import Audio, AudioSource, open_source
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.streaming import Decoder, stream
from fairseq.inference.transcribe import read_windows
from fairseq.inference.windows import WindowSettings, plan_windows

logger = logging.getLogger(__name__)

WatchPieces = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Emission:
    """The model's outputs for one utterance."""

    index: int
    num_samples: int
    pieces: Iterable[np.ndarray]  # log-probabilities T x V, one after the other; reading them may raise ValueError
    error: str | None = None  # why there are no outputs


@dataclass(frozen=True)
class Reading:
    """Hypotheses for one utterance, best first; a single empty one if it could not be read."""

    index: int
    num_samples: int
    hypotheses: list[Hypothesis]
    error: str | None


def emissions(
    model: SpeechModel, audios: Sequence[Audio], sizes: Sequence[int], settings: WindowSettings, max_tokens: int
) -> Iterator[Emission]:
    """Yield each utterance's log-probabilities, longest first, batching utterances of similar length.

    Args:
        audios: inputs for `open_source`.
        sizes: their lengths, in any unit; used for sorting only.
        max_tokens: samples per batch, including padding; a longer utterance is a batch of its own.
    """
    batch: list[tuple[int, np.ndarray]] = []
    for index in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        try:
            source = open_source(audios[index], model.sample_rate)
            if len(plan_windows(source.num_samples, model.conv_layers, model.sample_rate, settings)) > 1:
                yield Emission(index, source.num_samples, _windowed(model, source, settings))
                continue
            wave = source.read(0, source.num_samples)
        except (ValueError, OSError) as error:
            yield Emission(index, 0, [], str(error))
            continue
        longest = max([len(wave), *(len(other) for _, other in batch)])
        if batch and longest * (len(batch) + 1) > max_tokens:
            yield from _batched(model, batch)
            batch = []
        batch.append((index, wave))
    yield from _batched(model, batch)


def _windowed(model: SpeechModel, source: AudioSource, settings: WindowSettings) -> Iterator[np.ndarray]:
    for window, wave in read_windows(model, source, settings):
        yield model.outputs([wave])[0][window.keep]


def _batched(model: SpeechModel, batch: list[tuple[int, np.ndarray]]) -> Iterator[Emission]:
    if batch:
        for (index, wave), log_probs in zip(batch, model.outputs([wave for _, wave in batch]), strict=True):
            yield Emission(index, len(wave), [log_probs])


def read(emission: Emission, decoder: Decoder) -> Reading:
    """Decode an utterance; an error in its audio is stored in the result."""
    error = emission.error
    if error is None:
        decoding = stream(decoder)
        try:
            for log_probs in emission.pieces:
                decoding.feed(log_probs)
            return Reading(emission.index, emission.num_samples, decoding.finish(), None)
        except (ValueError, OSError) as problem:
            error = str(problem)
    return Reading(emission.index, emission.num_samples, [Hypothesis([], [], 0.0)], error)


def read_all(
    model: SpeechModel,
    audios: Sequence[Audio],
    sizes: Sequence[int],
    decoder: Decoder,
    settings: WindowSettings,
    max_tokens: int,
    watch: WatchPieces | None = None,
    title: str = "recognising",
) -> list[Reading]:
    """Recognise all utterances and report progress; the results have the order of `audios`.

    An utterance that cannot be read is logged and has an empty hypothesis.

    Args:
        watch: receives the log-probabilities of each utterance and passes them on.
        title: title of the progress bar or log lines.
    """
    readings: dict[int, Reading] = {}
    with Progress(title, len(audios)) as progress:
        for emission in emissions(model, audios, sizes, settings, max_tokens):
            pieces = ticking(emission.pieces, progress)
            reading = read(replace(emission, pieces=pieces if watch is None else watch(pieces)), decoder)
            if reading.error is not None:
                logger.warning("utterance %d: %s", reading.index, reading.error)
            readings[reading.index] = reading
            progress.advance()
    return [readings[index] for index in range(len(audios))]


def ticking(pieces: Iterable[np.ndarray], progress: Progress) -> Iterator[np.ndarray]:
    """Pass pieces through, with a progress tick for each."""
    for piece in pieces:
        progress.tick()
        yield piece
