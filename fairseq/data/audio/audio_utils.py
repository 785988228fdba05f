"""Reading waveforms: whole files or some of their frames, also out of uncompressed zip archives."""

from __future__ import annotations

import io
import math
import mmap
import os
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from fairseq.installed import advice

if TYPE_CHECKING:
    from soundfile import SoundFile

SF_AUDIO_FILE_EXTENSIONS = {".wav", ".flac", ".ogg"}
FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS = {".npy", ".wav", ".flac", ".ogg"}

_RESAMPLING_CONTEXT = 0.05  # seconds read on both sides of a crop, so that the filter sees what it would see in the whole file


class UnreadableAudio(Exception):
    """A file that cannot be decoded, or has not the frames that the manifest gives it; says why, without the name."""


class AudioFormat(NamedTuple):
    """What a file's header says."""

    sample_rate: int
    frames: int  # in the file's own rate
    channels: int


def parse_path(path: str) -> tuple[str, list[int]]:
    """Split a manifest's path into a file and the byte range in it.

    Returns:
        (file, []) for an audio file of its own, (archive, [offset, length]) for "archive.zip:offset:length".
    Raises:
        ValueError: neither form.
        OSError: there is no such archive, or it is a folder.
    """
    if os.path.splitext(path)[1] in FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS:
        return path, []
    file, *numbers = path.rsplit(":", 2)
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        if os.path.isfile(path):
            return path, []  # another extension: libsndfile looks at the contents
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a folder, not an audio file")
        raise ValueError(f"{path}: there is no such file, and it is not of the form archive.zip:offset:length")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"File not found: {file}")
    return file, [int(number) for number in numbers]


def mmap_read(path: str, offset: int, length: int) -> bytes:
    """`length` bytes of a file from `offset`, without reading what lies before."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), length=0, access=mmap.ACCESS_READ) as mapped:
        return mapped[offset : offset + length]


def read_from_stored_zip(zip_path: str, offset: int, length: int) -> bytes:
    """The bytes of an uncompressed member of a zip archive, by their place in it."""
    return mmap_read(zip_path, offset, length)


def is_npy_data(data: bytes) -> bool:
    return data[:2] == b"\x93N"


def is_sf_audio_data(data: bytes) -> bool:
    """Whether data begins as WAV, FLAC or Ogg do."""
    return data[:3] in (b"RIF", b"fLa", b"Ogg")


def open_audio(path: str) -> SoundFile:
    """Open an audio file, or a member of a stored zip ("archive.zip:offset:length"), for reading.

    Raises:
        UnreadableAudio: there is no such file, or it is no audio.
    """
    import soundfile

    from fairseq.data.audio.streamed import UNKNOWN_LENGTH, StreamedFile

    try:
        file, place = parse_path(path)
        content: str | BinaryIO = file
        if place:
            data = read_from_stored_zip(file, *place)
            if not is_sf_audio_data(data):
                raise UnreadableAudio(f"bytes {place[0]} to {sum(place)} of the archive are neither WAV nor FLAC nor Ogg")
            content = io.BytesIO(data)
        opened = soundfile.SoundFile(content)
        if opened.frames < UNKNOWN_LENGTH:
            return opened
        opened.close()
        status = os.stat(file)
        return StreamedFile(io.BytesIO(data) if place else file, (path, status.st_size, status.st_mtime_ns))
    except soundfile.SoundFileError as error:
        raise UnreadableAudio(_system_error(file) or str(error)) from error
    except (OSError, ValueError) as error:
        raise UnreadableAudio(str(error)) from error


def _system_error(file: str) -> str | None:
    """Why a file does not open at all, of which libsndfile says "System error" only; None if it does."""
    try:
        with open(file, "rb"):
            return None
    except OSError as error:
        return error.strerror


def audio_format(path: str) -> AudioFormat:
    """Read a file's header; where that does not say how long the file is, it is decoded once to find out.

    Raises:
        UnreadableAudio: there is no such file, or it is no audio.
    """
    with open_audio(path) as file:
        return AudioFormat(file.samplerate, file.frames, file.channels)


def read_frames(
    path: str,
    start: int = 0,
    frames: int = -1,
    sample_rate: int | None = None,
    resample: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode some frames of a file, and only those; several channels are averaged.

    Args:
        path: a file, or "archive.zip:offset:length".
        start, frames: first frame and count, in the target rate; -1 reads up to the end.
        sample_rate: the rate that is wanted; None takes the file's.
        resample: convert a file of another rate (needs the extra `resample`).
        out: float32, contiguous, `frames` long: where the samples go. Fresh memory for every file costs a sixth of its decoding.
    Returns:
        float32, `frames` samples in [-1, 1].
    Raises:
        ValueError: another sample rate, and `resample` is off.
        UnreadableAudio: the file cannot be decoded, or ends before `start + frames`.
    """
    import soundfile

    with open_audio(path) as file:
        try:
            if sample_rate is not None and file.samplerate != sample_rate:
                if not resample:
                    raise ValueError(
                        f"{path} has a sample rate of {file.samplerate} Hz, task.sample_rate is {sample_rate} Hz: convert the file, or set "
                        "task.resample=true to convert while reading"
                    )
                audio = _read_resampled(file, start, frames, sample_rate)
            else:
                audio = _read(file, start, file.frames - start if frames < 0 else frames, out)
        except soundfile.SoundFileError as error:
            raise UnreadableAudio(str(error)) from error
    if out is None or audio is out:
        return audio
    out[:] = audio
    return out


def _read(file: SoundFile, start: int, frames: int, out: np.ndarray | None = None) -> np.ndarray:
    """Frames in the file's own rate, averaged over channels; in `out` if there is one and the file has one channel."""
    if start and frames:
        if start >= file.frames:
            raise UnreadableAudio(f"it ends after {file.frames} frames, {start + frames} are needed")
        file.seek(start)
    into_out = out is not None and file.channels == 1
    audio = file.read(frames, dtype="float32", out=out if into_out else None)
    if len(audio) < frames:
        raise UnreadableAudio(f"it ends after {start + len(audio)} frames, {start + frames} are needed")
    if into_out:
        return out
    return audio if audio.ndim == 1 else audio.mean(axis=1)


def _read_resampled(file: SoundFile, start: int, frames: int, rate: int) -> np.ndarray:
    """The same frames of the file converted to `rate`, up to the filter's reach, as if all of it had been converted."""
    try:
        import soxr
    except ImportError as error:
        raise ValueError(f"task.resample is true, but the package soxr is not installed: {advice('resample')}") from error
    own = file.samplerate
    if frames < 0:
        frames = resampled_length(file.frames, own, rate) - start
    grid = rate // math.gcd(rate, own)  # frames of the target rate that begin exactly at a frame of the file's own
    context = math.ceil(_RESAMPLING_CONTEXT * rate)
    first = max(0, start - context) // grid * grid
    own_first = first * own // rate
    own_last = min(file.frames, math.ceil((start + frames + context) * own / rate))
    audio = soxr.resample(_read(file, own_first, max(0, own_last - own_first)), own, rate)[start - first : start - first + frames]
    if len(audio) < frames - 1:  # the very last frame of a file may be lost to rounding
        raise UnreadableAudio(f"it ends after {file.frames} frames of {own} Hz, {start + frames} frames of {rate} Hz are needed")
    return np.pad(audio, (0, frames - len(audio)))


def resampled_length(frames: int, own_rate: int, rate: int) -> int:
    """Frames that a file has after conversion."""
    return frames * rate // own_rate


def get_waveform(
    path_or_fp: str | BinaryIO,
    normalization: bool = True,
    mono: bool = True,
    frames: int = -1,
    start: int = 0,
    always_2d: bool = True,
    output_sample_rate: int | None = None,
) -> tuple[np.ndarray, int]:
    """A whole waveform, or `frames` of it from `start`, by fairseq's name.

    Args:
        normalization: samples in [-1, 1]; else in the range of 16-bit integers.
        mono: average the channels.
        always_2d: keep the axis of channels where there is one only.
    Returns:
        float32, channels x samples (or samples), and its sample rate.
    """
    import soundfile

    audio, rate = soundfile.read(path_or_fp, dtype="float32", always_2d=True, frames=frames, start=start)
    if mono and audio.shape[1] > 1:
        audio = audio.mean(axis=1, keepdims=True)
    if output_sample_rate is not None and output_sample_rate != rate:
        import soxr

        audio, rate = soxr.resample(audio, rate, output_sample_rate), output_sample_rate
    audio = audio.T if normalization else audio.T * 2.0**15
    return (audio if always_2d or audio.shape[0] > 1 else audio[0]), rate
