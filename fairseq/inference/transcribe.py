"""Transcribing files and waveforms: `fairseq.transcribe`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis
from fairseq.inference.audio import Audio
from fairseq.inference.model import SpeechModel
from fairseq.inference.streaming import Decoder, stream
from fairseq.inference.transcript import FrameTimes, Transcript, from_hypotheses
from fairseq.inference.windows import Window, WindowSettings, plan_windows

_SILENCE = 1e-4  # of full scale: a 16-bit file has steps of 3e-5


def transcribe(
    model: SpeechModel | str | os.PathLike[str],
    audio: Audio | list[Any],
    decoder: Decoder | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    windows: WindowSettings | None = None,
) -> Transcript | list[Transcript]:
    """What was said.

    Args:
        model: a fine-tuned checkpoint, or a SpeechModel already loaded (`SpeechModel.load`), which is quicker the second time.
        audio: a path; a waveform at the model's sample rate; (waveform, its rate); or a list of such, which gives a list. A waveform is
            an array or tensor, of one channel or several, which are averaged. Other rates are converted (extra `resample`).
        decoder: None decodes greedily; see `fairseq.decoding.beam.read_beam`.
        device, precision: of a model that is loaded here.
        windows: how long audio is cut; memory does not grow with its length.
    Returns:
        A Transcript with text, words with times and confidence, and `error` instead where the audio cannot be read.
    Raises:
        ValueError: the checkpoint cannot be read, or is not fine-tuned.
    """
    if not isinstance(model, SpeechModel):
        model = SpeechModel.load(model, device, precision)
    decoder = GreedyDecoder(model.dictionary()) if decoder is None else decoder
    settings = WindowSettings() if windows is None else windows
    if isinstance(audio, list):
        return [transcribe_one(model, item, decoder, settings) for item in audio]
    return transcribe_one(model, audio, decoder, settings)


def transcribe_one(model: SpeechModel, audio: Audio, decoder: Decoder, settings: WindowSettings) -> Transcript:
    """One file or waveform; what is wrong with it becomes its `error`."""
    name = os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else "waveform"
    try:
        source = model.open(audio)
        hypotheses, loudest = read_and_decode(model, source, decoder, settings)
    except (ValueError, OSError) as error:
        return Transcript(name, error=str(error))
    duration = source.num_samples / model.sample_rate
    times = FrameTimes(model.conv_layers, model.sample_rate, duration)
    return from_hypotheses(name, hypotheses, times, duration, _note(model, source.num_samples, loudest))


def read_and_decode(model: SpeechModel, source: Any, decoder: Decoder, settings: WindowSettings) -> tuple[list[Hypothesis], float]:
    """Hypotheses for all of a source, and its largest sample."""
    reading, loudest = stream(decoder), 0.0
    for window, wave in read_windows(model, source, settings):
        loudest = max(loudest, float(np.abs(wave).max()))
        reading.feed(model.log_probs([wave])[0][window.keep])
    return reading.finish(), loudest


def read_windows(model: SpeechModel, source: Any, settings: WindowSettings) -> Iterator[tuple[Window, np.ndarray]]:
    """A source's windows, each with its samples, read one at a time."""
    multiple = model.encoder.cfg.crop_seq_to_multiple
    for window in plan_windows(source.num_samples, model.conv_layers, model.sample_rate, settings, multiple):
        yield window, source.read(window.start, window.num_samples)


def _note(model: SpeechModel, num_samples: int, loudest: float) -> str | None:
    if model.num_frames(num_samples) == 0:
        return f"{num_samples} samples are shorter than one frame of the model sees: nothing to transcribe"
    if loudest < _SILENCE:
        return "silence: no sample is louder than 0.0001 of full scale"
    return None
