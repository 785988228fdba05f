"""Read waveforms, whole or in part, from files, members of uncompressed archives, and object stores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from fairseq.data.audio.contents import (
    FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS,
    SF_AUDIO_FILE_EXTENSIONS,
    Contents,
    contents,
    describe,
    is_npy_data,
    is_sf_audio_data,
    mmap_read,
    parse_path,
    read_from_stored_zip,
)
from fairseq.data.audio.headers import completed, mpeg_states_length, overstated
from fairseq.data.audio.quiet import silenced
from fairseq.data.audio.refusal import UnreadableAudio
from fairseq.data.storage.answers import StoreError
from fairseq.distributed import progress
from fairseq.installed import advice

if TYPE_CHECKING:
    from soundfile import SoundFile

__all__ = [
    "FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS",
    "SF_AUDIO_FILE_EXTENSIONS",
    "AudioFormat",
    "Samples",
    "UnreadableAudio",
    "audio_format",
    "check_samples",
    "convert_waveform",
    "get_waveform",
    "is_npy_data",
    "is_sf_audio_data",
    "mix",
    "mmap_read",
    "open_audio",
    "parse_path",
    "read_frames",
    "read_from_stored_zip",
    "read_samples",
    "resampled_length",
]

# seconds read on both sides of a crop, so that the filter has the same input as in the whole file
_RESAMPLING_CONTEXT = 0.05
# larger samples would overflow a float32 waveform's power; real peaks are 1, or 2^31 for unscaled integers
_LOUDEST = 1e15
_INTEGERS = ("PCM_16", "PCM_24", "PCM_32", "PCM_S8", "PCM_U8")  # samples that are finite and small without a check
_DENSEST = 8192  # maximum frames per byte of a file: FLAC stores 65,535 samples of silence in 11 bytes
_RATES = (1_000, 768_000)  # Hz; a header with a rate outside this range is damaged
_BLOCK = 1 << 24  # values read at a time when only the header says how many there are
_CANCELLED = 1e-4  # channels cancel each other if the power of their mean is below this share of their power


class AudioFormat(NamedTuple):
    """The contents of a file's header."""

    sample_rate: int  # Hz
    frames: int  # at the file's own rate
    channels: int


class Samples(NamedTuple):
    """A section of a file."""

    wave: np.ndarray  # float32, S
    # length of the whole file according to its header, at the rate of `wave`; None if the header does not state it
    file_length: int | None
    note: str | None  # a remark on a file that is readable but unusual


@contextmanager
def open_audio(path: str) -> Iterator[SoundFile]:
    """Open the audio of a place (see `fairseq.data.audio.places`) as a context manager.

    Raises:
        UnreadableAudio: the file does not exist, or is not audio.
        StoreError: the object of a URL cannot be read.
    """
    progress.reading(path)  # a read from storage that is gone blocks
    with ExitStack() as stack:
        with silenced(), _as_unreadable(path):
            found = contents(path)
            stack.enter_context(_failures_first(found))
            file = stack.enter_context(_open(found))
        if file.format == "MP3":
            stack.enter_context(silenced())
        yield file


@contextmanager
def _failures_first(found: Contents) -> Iterator[None]:
    """Raise a failed read from a store rather than what it led to."""
    try:
        yield
    finally:
        if found.failures:
            raise found.failures[0]


def _open(found: Contents) -> SoundFile:
    from fairseq.data.audio.streamed import FROM_THE_BEGINNING, MPEG_LEAD, UNKNOWN_LENGTH, CountedFile, OnwardFile

    file = OnwardFile(found.source())
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise UnreadableAudio(
            f"its header says {file.samplerate} Hz; it must be from {_RATES[0]} to {_RATES[1]} Hz", lasts=True
        )
    if file.format == "MP3":
        with found.binary() as binary:
            stated = mpeg_states_length(binary)
        if not stated:
            return CountedFile(lambda: overstated(found.binary(), found.size), found.identity, MPEG_LEAD)
    if file.frames >= UNKNOWN_LENGTH:
        return CountedFile(found.source, found.identity)
    if file.frames == 0 and (whole := completed(found.binary(), found.size)) is not None:
        return OnwardFile(whole)
    if file.frames > found.size * _DENSEST:
        raise UnreadableAudio(
            f"its header says {file.frames:,} frames, more than {found.size:,} bytes can hold", lasts=True
        )
    if file.format == "MP3":
        file.lead = MPEG_LEAD
    elif not file.can_seek():
        file.lead = FROM_THE_BEGINNING
    return file


@contextmanager
def _as_unreadable(path: str) -> Iterator[None]:
    """Convert errors from reading a file to UnreadableAudio with a reason."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        if "possibly a pipe" in reason:  # libsndfile's message for a file too short for the tag that it looks for
            reason = "Format not recognised."
        elif "Internal" in reason:
            reason = f"its header and its contents do not match (libsndfile: {reason})"
        raise UnreadableAudio(describe(path) or reason) from error
    except StoreError:
        raise
    except OSError as error:
        raise UnreadableAudio(error.strerror or str(error)) from error
    except (EOFError, ValueError, soundfile.SoundFileError) as error:
        raise UnreadableAudio(str(error)) from error


def audio_format(path: str) -> AudioFormat:
    """Read a file's header; if that does not state the length, decode the file once to count its frames.

    Raises:
        UnreadableAudio: the file does not exist, or is not audio.
    """
    with open_audio(path) as file, _as_unreadable(path):
        return AudioFormat(file.samplerate, file.frames, file.channels)


def read_frames(
    path: str,
    start: int = 0,
    frames: int = -1,
    sample_rate: int | None = None,
    resample: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode a range of frames of a file, averaged over channels. See `read_samples`."""
    return read_samples(path, start, frames, sample_rate, resample, out).wave


def read_samples(
    path: str,
    start: int = 0,
    frames: int = -1,
    sample_rate: int | None = None,
    resample: bool = False,
    out: np.ndarray | None = None,
) -> Samples:
    """Decode a range of frames of a file, averaged over channels; if channels cancel, use the loudest one.

    Args:
        path: a place: a file, "archive:offset:length", or a URL.
        start, frames: first frame and number of frames, at the target rate; -1 reads to the end.
        sample_rate: target rate in Hz; None: the file's own.
        resample: convert files of another rate (needs the extra `resample`).
        out: output buffer, float32, contiguous, `frames` long. Allocating memory for every file would take a sixth of
            its decoding time.
    Returns:
        float32, `frames` samples, in [-1, 1] if the file has integers; with the length from its header.
    Raises:
        ValueError: the file has another sample rate, and `resample` is false.
        UnreadableAudio: the file cannot be decoded, ends before `start + frames`, or contains NaN or infinity.
    """
    with open_audio(path) as file:
        rate = file.samplerate if sample_rate is None else sample_rate
        converts = file.samplerate != rate
        if converts and not resample:
            raise ValueError(
                f"{path} has a sample rate of {file.samplerate} Hz, but task.sample_rate is {sample_rate} Hz. Convert "
                "the file, or set task.resample=true to convert it while reading."
            )
        if converts:
            _check_resampler()
        with _as_unreadable(path):
            if converts:
                audio, note = _read_resampled(file, start, frames, rate)
            else:
                audio, note = _read(file, start, file.frames - start if frames < 0 else frames, out)
            length = _stated_length(file, rate)
        if file.subtype not in _INTEGERS:
            check_samples(audio, start, rate)
    if out is None or audio is out:
        return Samples(audio, length, note)
    out[:] = audio
    return Samples(out, length, note)


def _check_resampler() -> None:
    try:
        import soxr  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"task.resample is true, but the package soxr is not installed: {advice('resample')}"
        ) from error


def check_samples(wave: np.ndarray, start: int, rate: int) -> None:
    """Raise UnreadableAudio if a sample is NaN, infinite or above `_LOUDEST`.

    Args:
        wave: float32, S.
        start: index of its first sample in the file.
        rate: Hz.
    """
    if len(wave) == 0 or (wave.max() < _LOUDEST and wave.min() > -_LOUDEST):  # NaN is neither
        return
    first = int(np.flatnonzero(~(np.abs(wave) < _LOUDEST))[0])
    raise UnreadableAudio(
        f"it has samples that are not numbers (NaN or infinity), the first at {(start + first) / rate:.2f} s"
        if not math.isfinite(wave[first])
        else f"it has impossibly large samples, such as {wave[first]:g} at {(start + first) / rate:.2f} s",
        lasts=True,
    )


def mix(channels: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Average channels; if they cancel each other, as with opposite polarity, return the loudest channel.

    Args:
        channels: float32, S x channels.
    Returns:
        float32, S; and a remark, or None.
    """
    with np.errstate(all="ignore"):  # `check_samples` detects non-finite values
        mean = channels.mean(axis=1)
        powers = np.einsum("sc,sc->c", channels, channels)
        cancelled = float(np.dot(mean, mean)) < _CANCELLED * float(powers.mean())
    loudest = int(powers.argmax())
    if not cancelled or powers[loudest] == 0 or not np.isfinite(powers).all():
        return mean, None
    return channels[
        :, loudest
    ].copy(), f"its channels cancel each other when averaged: only channel {loudest + 1} is used"


def _stated_length(file: SoundFile, rate: int) -> int | None:
    from fairseq.data.audio.streamed import CountedFile

    return None if isinstance(file, CountedFile) else resampled_length(file.frames, file.samplerate, rate)


def _read(file: SoundFile, start: int, frames: int, out: np.ndarray | None = None) -> tuple[np.ndarray, str | None]:
    """Read frames at the file's own rate, averaged over channels; into `out` if given and the file is mono."""
    audio, note = _decode(file, start, frames, out)
    if len(audio) < frames:
        raise UnreadableAudio(
            f"it ends after {min(file.frames, start + len(audio))} frames, but {start + frames} are needed"
        )
    return (out if out is not None and file.channels == 1 else audio), note


def _decode(file: SoundFile, start: int, frames: int, out: np.ndarray | None = None) -> tuple[np.ndarray, str | None]:
    """Read frames as `_read` does, but return fewer if the file ends early."""
    import soundfile

    from fairseq.data.audio.streamed import CountedFile

    if frames <= 0:
        return np.zeros(0, dtype=np.float32), None
    if start:
        counted = isinstance(file, CountedFile)  # counting takes time: ask for its length only if needed
        if not counted and start >= file.frames:
            raise UnreadableAudio(f"it ends after {file.frames} frames, but {start + frames} are needed")
        try:
            file.seek(start)
        except soundfile.LibsndfileError:
            if counted and start >= file.frames:
                raise UnreadableAudio(f"it ends after {file.frames} frames, but {start + frames} are needed") from None
            raise
    if out is not None and file.channels == 1:
        return file.read(frames, dtype="float32", out=out), None
    audio = (
        file.read(frames, dtype="float32", always_2d=True)
        if frames * file.channels <= _BLOCK
        else _read_blocks(file, frames)
    )
    return (audio[:, 0], None) if file.channels == 1 else mix(audio)


def _read_blocks(file: SoundFile, frames: int) -> np.ndarray:
    """Read up to `frames` frames, S x channels, in blocks, so that a header that overstates them takes no memory."""
    size = max(1, _BLOCK // file.channels)
    blocks: list[np.ndarray] = [np.zeros((0, file.channels), dtype=np.float32)]
    while frames > 0:
        blocks.append(file.read(min(frames, size), dtype="float32", always_2d=True))
        frames -= size
        if len(blocks[-1]) < size:
            break
    return np.concatenate(blocks)


def _read_resampled(file: SoundFile, start: int, frames: int, rate: int) -> tuple[np.ndarray, str | None]:
    """Read frames of the file converted to `rate`, equal to a part of the fully converted file."""
    import soxr

    own = file.samplerate
    if frames < 0:
        frames = resampled_length(file.frames, own, rate) - start
    grid = rate // math.gcd(rate, own)  # every `grid` frames, the target rate coincides with a frame of the file
    context = math.ceil(_RESAMPLING_CONTEXT * rate)
    first = max(0, start - context) // grid * grid
    own_first = first * own // rate
    own_last = math.ceil((start + frames + context) * own / rate)
    audio, note = _decode(file, own_first, own_last - own_first)
    audio = soxr.resample(audio, own, rate)[start - first : start - first + frames]
    if len(audio) < frames - 1:  # rounding can lose the last frame of a file
        raise UnreadableAudio(
            f"it ends after {file.frames} frames at {own} Hz, but {start + frames} frames at {rate} Hz are needed"
        )
    return np.pad(audio, (0, frames - len(audio))), note


def resampled_length(frames: int, own_rate: int, rate: int) -> int:
    """Return the number of frames of a file after conversion."""
    return frames * rate // own_rate


def get_waveform(
    path_or_fp: str | BinaryIO,
    normalization: bool = True,
    mono: bool = True,
    frames: int = -1,
    start: int = 0,
    always_2d: bool = True,
    output_sample_rate: int | None = None,
    normalize_volume: bool = False,
) -> tuple[np.ndarray, int]:
    """Read a whole waveform, or `frames` of it from `start`; fairseq's function.

    Args:
        path_or_fp: a path, or an open binary file.
        normalization: scale samples to [-1, 1]; otherwise to the range of 16-bit integers.
        mono: average the channels.
        frames: number of frames; -1 reads to the end.
        start: first frame.
        always_2d: keep the channel axis if there is only one channel.
        output_sample_rate: convert to this rate (needs the extra `resample`); None: the file's own.
        normalize_volume: scale the waveform to a peak of 1 or -1, before averaging channels and converting the rate.
    Returns:
        float32, channels x samples (or samples), and its sample rate.
    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be decoded; names it.
    """
    audio, rate = _read_channels(path_or_fp, start, frames)
    audio, rate = convert_waveform(audio.T, rate, normalize_volume, mono, output_sample_rate)
    if not normalization:
        audio = audio * 2.0**15
    return (audio if always_2d or audio.shape[0] > 1 else audio[0]), rate


def convert_waveform(
    waveform: np.ndarray,
    sample_rate: int,
    normalize_volume: bool = False,
    to_mono: bool = False,
    to_sample_rate: int | None = None,
) -> tuple[np.ndarray, int]:
    """Change volume, channels or rate of a waveform (channels x samples); see `get_waveform`. Silence stays silent."""
    if normalize_volume and (loudest := np.abs(waveform).max(initial=0)) > 0:
        waveform = waveform / loudest
    if to_mono and waveform.shape[0] > 1:
        waveform = waveform.mean(axis=0, keepdims=True)
    if to_sample_rate is None or to_sample_rate == sample_rate:
        return waveform, sample_rate
    import soxr

    return soxr.resample(waveform.T, sample_rate, to_sample_rate).T, to_sample_rate


def _read_channels(path_or_fp: str | BinaryIO, start: int, frames: int) -> tuple[np.ndarray, int]:
    """Read frames of all channels, S x channels, or fewer if the file ends early; also return the rate."""
    import soundfile

    if not isinstance(path_or_fp, (str, os.PathLike)):
        return soundfile.read(path_or_fp, dtype="float32", always_2d=True, frames=frames, start=start)
    path = os.fspath(path_or_fp)
    try:
        with open_audio(path) as file, _as_unreadable(path):
            if start:
                file.seek(start)
            audio = _read_blocks(file, file.frames - start if frames < 0 else frames)
            return audio, file.samplerate
    except UnreadableAudio as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FileNotFoundError(f"{path}: {error}") from error
        raise ValueError(f"{path} cannot be decoded: {error}") from error
