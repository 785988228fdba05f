"""Audio to work on: files and arrays of any sample rate and number of channels, read in pieces."""

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
from fairseq.data.audio.manifest import printable
from fairseq.installed import advice
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

Audio = Union[str, "os.PathLike[str]", np.ndarray, Tensor, "tuple[Any, Any]"]  # see `open_source`


class AudioSource(Protocol):
    """Samples at the rate that a model wants, read in pieces."""

    name: str
    own_rate: int  # of the file or array
    sample_rate: int
    num_samples: int  # at `sample_rate`

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples `start` to `start + count`, float32, channels averaged.

        Raises:
            ValueError: they cannot be decoded, or are not numbers.
        """
        ...


class FileSource:
    """A file, or a member of a stored zip; a piece is read by seeking to it. What comes through a pipe is kept in a
    temporary file.

    Args:
        sample_rate: the rate that is wanted; a file of another one is converted while it is read (extra `resample`).
    Raises:
        MissingFileError: there is no such file.
        ValueError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int) -> None:
        self.name = os.fspath(path)
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
        self.num_samples = resampled_length(header.frames, header.sample_rate, sample_rate)

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples `start` to `start + count`, float32, channels averaged.

        Raises:
            ValueError: they cannot be decoded, or are not numbers.
        """
        try:
            samples = read_samples(self._path, start, count, self.sample_rate, resample=True)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name} cannot be decoded: {error}") from error
        if samples.note is not None and not self._warned:
            self._warned = True
            logger.warning("%s: %s", printable(self.name), samples.note)
        return samples.wave

    def _kept(self, pipe: str) -> str:
        """All that comes through a pipe, in a file that goes when this source goes."""
        with open(pipe, "rb") as stream, tempfile.NamedTemporaryFile(prefix="fairseq-", delete=False) as kept:
            weakref.finalize(self, os.unlink, kept.name)
            shutil.copyfileobj(stream, kept)
        return kept.name


class ArraySource:
    """A waveform in memory.

    Args:
        wave: S, channels x S or S x channels (the longer axis is time), floating point in [-1, 1], or integers of 8, 16
            or 32 bits over their whole range; unsigned ones have their middle for zero, as 8-bit WAV files have.
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
            raise ValueError(
                f"a waveform has 1 or 2 dimensions (samples, channels); this one has the shape {array.shape}"
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
    """What `audio` means: a path, a waveform at the model's rate, or (waveform, its rate), in scipy's order too."""
    if isinstance(audio, (str, os.PathLike)):
        return FileSource(audio, sample_rate)
    if isinstance(audio, tuple):
        if len(audio) != 2:
            raise ValueError(f"a tuple stands for (waveform, its sample rate); this one has {len(audio)} parts")
        first, second = audio
        wave, own_rate = (first, second) if np.ndim(first) else (second, first)
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


def as_floats(array: np.ndarray) -> np.ndarray:
    """Samples as float32, integers scaled to [-1, 1] by the range of their type.

    Raises:
        ValueError: of another type; or of 64 bits, whose range no audio fills.
    """
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        return array.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:
        raise ValueError(
            "a waveform holds floating point numbers, or integers of 8, 16 or 32 bits; this one is of type "
            f"{array.dtype}. Convert it, for example with astype(numpy.int16) where it has the range of 16 bits"
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
