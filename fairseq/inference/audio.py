"""Audio to work on: files and arrays of any sample rate and number of channels, read in pieces."""

from __future__ import annotations

import math
import os
from typing import Any, Union

import numpy as np
from torch import Tensor

from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format, read_frames, resampled_length
from fairseq.installed import advice

Audio = Union[str, "os.PathLike[str]", np.ndarray, Tensor, "tuple[Any, int]"]


class FileSource:
    """A file, or a member of a stored zip; a piece is read by seeking to it.

    Args:
        sample_rate: the rate that is wanted; a file of another one is converted while it is read (extra `resample`).
    Raises:
        ValueError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int) -> None:
        self.name = os.fspath(path)
        try:
            header = audio_format(self.name)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name} cannot be read: {error}") from error
        self.own_rate, self.sample_rate = header.sample_rate, sample_rate
        self.num_samples = resampled_length(header.frames, header.sample_rate, sample_rate)

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples `start` to `start + count`, float32, channels averaged.

        Raises:
            ValueError: they cannot be decoded, or are not numbers.
        """
        try:
            wave = read_frames(self.name, start, count, self.sample_rate, resample=True)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name} cannot be decoded: {error}") from error
        return finite(wave, self.name, start, self.sample_rate)


class ArraySource:
    """A waveform in memory.

    Args:
        wave: S, channels x S or S x channels (the longer axis is time), floating point in [-1, 1] or 16-bit integers.
        own_rate: its sample rate.
        sample_rate: the rate that is wanted.
    Raises:
        ValueError: it has another shape, or values that are not numbers.
    """

    name = "the waveform"

    def __init__(self, wave: np.ndarray | Tensor, own_rate: int, sample_rate: int) -> None:
        if isinstance(wave, Tensor):
            wave = wave.detach().cpu()
            wave = wave.float() if wave.is_floating_point() else wave  # NumPy has no bfloat16
        array = np.asarray(wave)
        if array.ndim not in (1, 2):
            raise ValueError(f"a waveform has 1 or 2 dimensions (samples, channels); this one has the shape {array.shape}")
        scale = 1.0 if array.dtype.kind == "f" else 1 / (np.iinfo(array.dtype).max + 1) if array.dtype.kind in "iu" else None
        if scale is None:
            raise ValueError(f"a waveform holds floating point numbers or integers; this one is of type {array.dtype}")
        array = array.astype(np.float32, copy=False) * np.float32(scale) if scale != 1.0 else array.astype(np.float32, copy=False)
        if array.size == 0:
            array = array.reshape(-1)
        if array.ndim == 2:
            array = array.mean(axis=0 if array.shape[0] <= array.shape[1] else 1)
        array = finite(array, self.name, 0, own_rate)
        self.own_rate, self.sample_rate = own_rate, sample_rate
        self._wave = array if own_rate == sample_rate else resample(array, own_rate, sample_rate)
        self.num_samples = len(self._wave)

    def read(self, start: int, count: int) -> np.ndarray:
        return self._wave[start : start + count]


def open_source(audio: Audio, sample_rate: int) -> FileSource | ArraySource:
    """What `audio` means: a path, a waveform at the model's rate, or (waveform, its rate)."""
    if isinstance(audio, (str, os.PathLike)):
        return FileSource(audio, sample_rate)
    if isinstance(audio, tuple):
        wave, own_rate = audio
        return ArraySource(wave, int(own_rate), sample_rate)
    return ArraySource(audio, sample_rate, sample_rate)


def resample(wave: np.ndarray, own_rate: int, sample_rate: int) -> np.ndarray:
    """A whole waveform at another rate.

    Raises:
        ValueError: the extra `resample` is not installed.
    """
    try:
        import soxr
    except ImportError as error:
        raise ValueError(
            f"audio of {own_rate} Hz for a model of {sample_rate} Hz needs the package soxr: {advice('resample')}"
        ) from error
    return soxr.resample(wave, own_rate, sample_rate)


def finite(wave: np.ndarray, name: str, start: int, sample_rate: int) -> np.ndarray:
    """`wave` itself.

    Raises:
        ValueError: it holds NaN or infinity; says from when on.
    """
    if math.isfinite(float(wave.sum(dtype=np.float64))):  # one pass; any NaN or infinity spoils the sum
        return wave
    first = int(np.flatnonzero(~np.isfinite(wave))[0])
    raise ValueError(f"{name} has samples that are no numbers (NaN or infinity), the first at {(start + first) / sample_rate:.2f} s")
