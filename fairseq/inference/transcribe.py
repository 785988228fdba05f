"""Transcribe files and waveforms: `fairseq.transcribe`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.decoding.beam import BeamSettings, read_beam
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis
from fairseq.inference.audio import Audio, AudioSource
from fairseq.inference.model import SpeechModel
from fairseq.inference.streaming import Decoder, stream
from fairseq.inference.transcript import FrameTimes, Transcript, from_hypotheses
from fairseq.inference.windows import Window, WindowSettings, plan_windows

_AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff", ".au")
_MODEL_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_SILENCE = 1e-4  # of full scale: a 16-bit file has steps of 3e-5


def transcribe(
    model: SpeechModel | str | os.PathLike[str],
    audio: Audio | list[Any],
    decoder: Decoder | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    windows: WindowSettings | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    lm: str | os.PathLike[str] | None = None,
    settings: BeamSettings | None = None,
    hotwords: Mapping[str, float] | None = None,
) -> Transcript | list[Transcript]:
    """Transcribe audio.

    Args:
        model: a fine-tuned checkpoint, a folder written by transformers, or a SpeechModel (from `SpeechModel.load`),
            which saves loading it again for each call.
        audio: a path; a waveform at the model's sample rate; (waveform, sample rate); or a list of these. A waveform is
            an array or tensor; several channels are averaged. Other sample rates are converted (extra `resample`).
        decoder: a decoder from `fairseq.decoding.beam.read_beam`, instead of `lexicon`, `lm`, `settings` and
            `hotwords`.
        device: device of a model that is loaded here.
        precision: precision of a model that is loaded here.
        windows: window length and overlap for long audio; memory does not grow with the length of the audio.
        lexicon: lexicon file, for a beam search.
        lm: n-gram language model file, for a beam search. Without any of the three, decoding is greedy.
        settings: beam size and weights of the beam search.
        hotwords: words to prefer in a beam search, with their boosts in natural logarithms, such as {"GAUDI": 5}.
    Returns:
        A Transcript with the text and its words with times and confidence; for a list, a list of them. In a list, a
        Transcript has `error` set if its audio cannot be read.
    Raises:
        FileNotFoundError: the checkpoint, lexicon, language model, or a single audio file does not exist.
        ValueError: one of these cannot be read, or the checkpoint is not fine-tuned.
    """
    _check_order(model, audio)
    if not isinstance(model, SpeechModel):
        model = SpeechModel.load(model, device, precision)
    if decoder is None and lexicon is None and lm is None and not hotwords:
        decoder = GreedyDecoder(model.dictionary())
    elif decoder is None:
        chosen = BeamSettings() if settings is None else settings
        decoder = read_beam(model.dictionary(), lexicon, lm, chosen, hotwords=hotwords)
    cut = WindowSettings() if windows is None else windows
    if isinstance(audio, list):
        return [transcribe_one(model, item, decoder, cut) for item in audio]
    return _transcribed(model, audio, decoder, cut)


def _check_order(model: Any, audio: Any) -> None:
    """Raise ValueError if the arguments are swapped, or the waveform is a list of numbers."""
    order = "transcribe(model, audio) takes the checkpoint first, then the audio"
    if not isinstance(model, (SpeechModel, str, os.PathLike)):
        raise ValueError(f"{order}; the first argument is a {type(model).__name__}, not a path or a SpeechModel")
    if isinstance(audio, SpeechModel):
        raise ValueError(f"{order}; these arguments are swapped")
    if isinstance(model, SpeechModel) or not isinstance(audio, (str, os.PathLike)):
        if isinstance(audio, list) and audio and isinstance(audio[0], (int, float)):
            raise ValueError(
                "a list means several recordings; pass a single waveform as an array or tensor: numpy.array(samples)"
            )
        return
    first, second = Path(os.fspath(model)).suffix.lower(), Path(os.fspath(audio)).suffix.lower()
    if first in _AUDIO_ENDINGS or (
        second in _MODEL_ENDINGS and first not in _MODEL_ENDINGS and not os.path.isdir(model)
    ):
        raise ValueError(f"{order}; {os.fspath(model)} and {os.fspath(audio)} look swapped")


def transcribe_one(
    model: SpeechModel, audio: Audio, decoder: Decoder, settings: WindowSettings, tick: Callable[[], None] | None = None
) -> Transcript:
    """Transcribe one file or waveform; an error is stored in the result. `tick` is called after each window."""
    try:
        return _transcribed(model, audio, decoder, settings, tick)
    except (ValueError, OSError) as error:
        return Transcript(_name(audio), error=str(error))


def _transcribed(
    model: SpeechModel, audio: Audio, decoder: Decoder, settings: WindowSettings, tick: Callable[[], None] | None = None
) -> Transcript:
    source = model.open(audio)
    hypotheses, loudest = read_and_decode(model, source, decoder, settings, tick)
    duration = source.num_samples / model.sample_rate
    times = FrameTimes(model.conv_layers, model.sample_rate, duration)
    return from_hypotheses(_name(audio), hypotheses, times, duration, _note(model, source.num_samples, loudest))


def _name(audio: Audio) -> str:
    return os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else "waveform"


def read_and_decode(
    model: SpeechModel,
    source: AudioSource,
    decoder: Decoder,
    settings: WindowSettings,
    tick: Callable[[], None] | None = None,
) -> tuple[list[Hypothesis], float]:
    """Return hypotheses for a whole source, and the largest absolute value of its samples."""
    reading, loudest = stream(decoder), 0.0
    for window, wave in read_windows(model, source, settings):
        loudest = max(loudest, float(np.abs(wave).max()))
        reading.feed(model.log_probs([wave])[0][window.keep])
        if tick is not None:
            tick()
    return reading.finish(), loudest


def read_windows(
    model: SpeechModel, source: AudioSource, settings: WindowSettings
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the windows of a source with their samples, read one at a time."""
    for window in plan_windows(
        source.num_samples, model.conv_layers, model.sample_rate, settings, model.frame_multiple
    ):
        yield window, source.read(window.start, window.num_samples)


def _note(model: SpeechModel, num_samples: int, loudest: float) -> str | None:
    if model.num_frames(num_samples) == 0:
        return (
            f"nothing to transcribe: the audio has {num_samples} samples, fewer than the receptive field of one frame"
        )
    if loudest < _SILENCE:
        return "silence: no sample is louder than 0.0001 of full scale"
    return None
