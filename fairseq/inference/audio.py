"""Read audio files and arrays of any sample rate and number of channels, in pieces."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import weakref
from typing import Any, Protocol, Union

import numpy as np
from torch import Tensor

from fairseq.data.audio.audio_utils import (
    UnreadableAudio,
    audio_format,
    check_samples,
    mix,
    read_samples,
    resampled_length,
)
from fairseq.data.audio.manifest import Segment, printable
from fairseq.installed import advice
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

Audio = Union[str, "os.PathLike[str]", Segment, np.ndarray, Tensor, "tuple[Any, Any]"]  # see `open_source`


class AudioSource(Protocol):
    """Audio samples at the model's sample rate, read in pieces."""

    name: str
    own_rate: int  # of the file or array
    sample_rate: int
    num_samples: int  # at `sample_rate`

    def read(self, start: int, count: int) -> np.ndarray:
        """Return samples `start` to `start + count`, float32, channels averaged.

        Raises:
            ValueError: the samples cannot be decoded, or contain NaN or infinity.
        """
        ...


class FileSource:
    """An audio file, a member of an uncompressed zip, or a segment of either.

    Reading seeks to the requested samples. A pipe is first copied to a temporary file.

    Args:
        sample_rate: output rate; a file with another rate is resampled while it is read (extra `resample`).
    Raises:
        MissingFileError: the file does not exist.
        ValueError: the file cannot be opened, or a segment ends after it.
    """

    def __init__(self, audio: str | os.PathLike[str] | Segment, sample_rate: int) -> None:
        segment = audio if isinstance(audio, Segment) else None
        self.name = os.fspath(audio.place if isinstance(audio, Segment) else audio)
        self._path = self._kept(self.name) if _is_pipe(self.name) else self.name
        self._warned = False
        try:
            header = audio_format(self._path)
        except UnreadableAudio as error:
            # archive.zip:offset:length
            is_missing = not any(map(os.path.exists, (self.name, self.name.rsplit(":", 2)[0])))
            kind = MissingFileError if is_missing else ValueError
            raise kind(f"{self.name} cannot be read: {error}") from error
        self.own_rate, self.sample_rate = header.sample_rate, sample_rate
        frames = header.frames if segment is None else segment.frames
        self._start = 0 if segment is None else resampled_length(segment.start, header.sample_rate, sample_rate)
        if segment is not None and segment.start + segment.frames > header.frames:
            raise ValueError(
                f"{printable(self.name)} has {header.frames:,} samples, but the manifest has a segment of it that ends "
                f"at {segment.start + segment.frames:,}"
            )
        self.num_samples = resampled_length(frames, header.sample_rate, sample_rate)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return samples `start` to `start + count`, float32, channels averaged.

        Raises:
            ValueError: the samples cannot be decoded, or contain NaN or infinity.
        """
        try:
            samples = read_samples(self._path, self._start + start, count, self.sample_rate, resample=True)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name} cannot be decoded: {error}") from error
        if samples.note is not None and not self._warned:
            self._warned = True
            logger.warning("%s: %s", printable(self.name), samples.note)
        return samples.wave

    def _kept(self, pipe: str) -> str:
        """Copy a pipe to a temporary file, which is deleted with this source; returns its path."""
        with open(pipe, "rb") as stream, tempfile.NamedTemporaryFile(prefix="fairseq-", delete=False) as kept:
            weakref.finalize(self, os.unlink, kept.name)
            shutil.copyfileobj(stream, kept)
        return kept.name


class ArraySource:
    """A waveform in memory.

    Args:
        wave: S, channels x S or S x channels (the longer axis is time); floating point in [-1, 1], or 8-, 16- or 32-bit
            integers over their whole range. Unsigned integers are centred on half their range, as in 8-bit WAV files.
        own_rate: sample rate of `wave`.
        sample_rate: output rate.
    Raises:
        ValueError: the shape is not supported, or a value is NaN or infinite.
    """

    name = "the waveform"

    def __init__(self, wave: np.ndarray | Tensor, own_rate: int, sample_rate: int) -> None:
        if isinstance(wave, Tensor):
            wave = wave.detach().cpu()
            wave = wave.float() if wave.is_floating_point() else wave  # NumPy has no bfloat16
        array = np.asarray(wave)
        if array.ndim not in (1, 2):
            raise ValueError(
                f"the waveform has shape {array.shape}; it must have 1 or 2 dimensions (samples, channels)"
            )
        array = as_floats(array)
        if array.size == 0:
            array = array.reshape(-1)
        if array.ndim == 2:
            array, note = mix(array.T if array.shape[0] <= array.shape[-1] else array)
            if note is not None:
                logger.warning("%s: %s", self.name, note)
        try:
            check_samples(array, 0, own_rate)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name} cannot be used: {error}") from error
        self.own_rate, self.sample_rate = own_rate, sample_rate
        self._wave = array if own_rate == sample_rate else resample(array, own_rate, sample_rate)
        self.num_samples = len(self._wave)

    def read(self, start: int, count: int) -> np.ndarray:
        return self._wave[start : start + count]


def open_source(audio: Audio, sample_rate: int) -> AudioSource:
    """Open a path, a segment, a waveform at the model's rate, or (waveform, its rate); scipy's (rate, waveform) too."""
    if isinstance(audio, str | os.PathLike | Segment):
        return FileSource(audio, sample_rate)
    if isinstance(audio, tuple):
        if len(audio) != 2:
            raise ValueError(f"the tuple has {len(audio)} elements; it must be (waveform, sample rate)")
        first, second = audio
        wave, own_rate = (first, second) if np.ndim(first) else (second, first)
        return ArraySource(wave, int(own_rate), sample_rate)
    return ArraySource(audio, sample_rate, sample_rate)


def resample(wave: np.ndarray, own_rate: int, sample_rate: int) -> np.ndarray:
    """Resample a whole waveform.

    Raises:
        ValueError: the extra `resample` is not installed.
    """
    try:
        import soxr
    except ImportError as error:
        raise ValueError(
            f"resampling audio from {own_rate} Hz to the model's {sample_rate} Hz needs the package soxr: "
            f"{advice('resample')}"
        ) from error
    return soxr.resample(wave, own_rate, sample_rate)


def as_floats(array: np.ndarray) -> np.ndarray:
    """Convert samples to float32; integers are scaled to [-1, 1] by the range of their type.

    Raises:
        ValueError: the type is not supported; 64-bit integers are not, because audio never fills their range.
    """
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        return array.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:
        raise ValueError(
            f"the waveform has dtype {array.dtype}; it must be floating point, or 8-, 16- or 32-bit integers. Convert "
            "it, for example with astype(numpy.int16) if its values are in the 16-bit range"
        )
    wide = array.astype(np.float64 if bits == 32 else np.float32)  # exact
    half = wide.dtype.type(2 ** (bits - 1))
    return ((wide - half if kind == "u" else wide) / half).astype(np.float32, copy=False)


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
