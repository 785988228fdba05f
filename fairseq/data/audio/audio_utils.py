"""Reading waveforms: whole files or some of their frames, also out of uncompressed zip archives."""

from __future__ import annotations

import io
import math
import mmap
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from fairseq.data.audio.headers import VirtualFile, completed, mpeg_states_length, overstated
from fairseq.data.audio.quiet import silenced
from fairseq.data.audio.refusal import LONGEST, what_it_is
from fairseq.installed import advice

if TYPE_CHECKING:
    from soundfile import SoundFile

SF_AUDIO_FILE_EXTENSIONS = {".wav", ".flac", ".ogg"}
FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS = {".npy", ".wav", ".flac", ".ogg"}

# seconds read on both sides of a crop, so that the filter sees what it would see in the whole file
_RESAMPLING_CONTEXT = 0.05
# beyond it a float32 waveform's power overflows; real ones have 1, or 2^31 where integers were stored as they are
_LOUDEST = 1e15
_DENSEST = 8192  # frames that a byte of a file can stand for: FLAC has 65,535 samples of silence in 11 bytes
_RATES = (1_000, 768_000)  # Hz; a header that states another one is damaged
_BLOCK = 1 << 24  # values read at a time where nobody but the header says how many there are
_CANCELLED = 1e-4  # of the channels' power, below which the power of their mean says that they cancel each other


class UnreadableAudio(Exception):
    """A file that cannot be decoded, or has not the frames that the manifest gives it; says why, without the name.

    `lasts`: it will be the same at the next try, as the samples themselves are wrong.
    """

    def __init__(self, reason: str, lasts: bool = False) -> None:
        super().__init__(reason)
        self.lasts = lasts


class AudioFormat(NamedTuple):
    """What a file's header says."""

    sample_rate: int
    frames: int  # in the file's own rate
    channels: int


class Samples(NamedTuple):
    """A piece of a file."""

    wave: np.ndarray  # float32, S
    # of the whole file by its header, at the rate of `wave`; None where the header does not say
    file_length: int | None
    note: str | None  # what is odd about the file, though it can be read


def parse_path(path: str) -> tuple[str, list[int]]:
    """Split a manifest's path into a file and the byte range in it.

    Returns:
        (file, []) for an audio file of its own, (archive, [offset, length]) for "archive.zip:offset:length" where no
        file has that name.
    Raises:
        ValueError: neither form.
        OSError: there is no such archive, or it is a folder.
    """
    if os.path.splitext(path)[1] in FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS:
        return path, []
    file, *numbers = path.rsplit(":", 2)
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or os.path.isfile(path):
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a folder, not an audio file")
        if os.path.exists(path):
            return path, []  # another extension: libsndfile looks at the contents
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


class _Contents(NamedTuple):
    """An audio file's bytes, before anybody has looked at them."""

    binary: Callable[[], BinaryIO]  # opens them
    source: Callable[[], Any]  # what SoundFile takes
    size: int
    identity: Hashable


def _contents(path: str) -> _Contents:
    file, place = parse_path(path)
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UnreadableAudio(f"{file} is {kind}, not an audio file")
    identity = (path, status.st_size, status.st_mtime_ns)
    if not place:
        name = os.fsencode(file)  # SoundFile encodes names strictly, and not all are UTF-8
        return _Contents(lambda: open(file, "rb", buffering=0), lambda: name, status.st_size, identity)
    data = read_from_stored_zip(file, *place)
    if not is_sf_audio_data(data):
        raise UnreadableAudio(f"bytes {place[0]} to {sum(place)} of the archive are neither WAV nor FLAC nor Ogg")
    return _Contents(lambda: io.BytesIO(data), lambda: VirtualFile(io.BytesIO(data), len(data)), len(data), identity)


@contextmanager
def open_audio(path: str) -> Iterator[SoundFile]:
    """Open an audio file, or a member of a stored zip ("archive.zip:offset:length"), for reading, and close it at the
    end.

    Raises:
        UnreadableAudio: there is no such file, or it is no audio.
    """
    with ExitStack() as stack:
        with silenced(), _as_unreadable(path):
            file = stack.enter_context(_open(_contents(path)))
        if file.format == "MP3":
            stack.enter_context(silenced())
        yield file


def _open(contents: _Contents) -> SoundFile:
    import soundfile

    from fairseq.data.audio.streamed import FROM_THE_BEGINNING, MPEG_LEAD, UNKNOWN_LENGTH, CountedFile, OnwardFile

    file = soundfile.SoundFile(contents.source())
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise UnreadableAudio(
            f"its header says {file.samplerate} Hz; audio has {_RATES[0]} to {_RATES[1]} Hz", lasts=True
        )
    if file.format == "MP3":
        with contents.binary() as binary:
            stated = mpeg_states_length(binary)
        if not stated:
            return CountedFile(lambda: overstated(contents.binary(), contents.size), contents.identity, MPEG_LEAD)
    if file.frames >= UNKNOWN_LENGTH:
        return CountedFile(contents.source, contents.identity)
    if file.frames == 0 and (whole := completed(contents.binary(), contents.size)) is not None:
        return soundfile.SoundFile(whole)  # type: ignore[arg-type]  # it has what libsndfile asks of a file
    if file.frames > contents.size * _DENSEST:
        raise UnreadableAudio(
            f"its header says {file.frames:,} frames, more than {contents.size:,} bytes can hold", lasts=True
        )
    if file.format == "MP3":
        return OnwardFile(contents.source(), MPEG_LEAD)
    return file if file.seekable() else OnwardFile(contents.source(), FROM_THE_BEGINNING)


@contextmanager
def _as_unreadable(path: str) -> Iterator[None]:
    """Within, what goes wrong with a file is an UnreadableAudio that says why."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        if "possibly a pipe" in reason:  # what it says of a file too short for the tag that it looks for
            reason = "Format not recognised."
        elif "Internal" in reason:
            reason = f"its header and its contents do not fit together (libsndfile: {reason})"
        raise UnreadableAudio(_looked_at(path) or reason) from error
    except OSError as error:
        raise UnreadableAudio(error.strerror or str(error)) from error
    except (EOFError, ValueError, soundfile.SoundFileError) as error:
        raise UnreadableAudio(str(error)) from error


def _looked_at(path: str) -> str | None:
    """What stands in a file that libsndfile refuses, or why it does not open at all; None if there is nothing to
    say.
    """
    try:
        with _contents(path).binary() as file:
            return what_it_is(file.read(LONGEST))
    except OSError as error:
        return error.strerror


def audio_format(path: str) -> AudioFormat:
    """Read a file's header; where that does not say how long the file is, it is decoded once to find out.

    Raises:
        UnreadableAudio: there is no such file, or it is no audio.
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
    """Decode some frames of a file, and only those; several channels are averaged. See `read_samples`."""
    return read_samples(path, start, frames, sample_rate, resample, out).wave


def read_samples(
    path: str,
    start: int = 0,
    frames: int = -1,
    sample_rate: int | None = None,
    resample: bool = False,
    out: np.ndarray | None = None,
) -> Samples:
    """Decode some frames of a file, and only those; several channels are averaged, or the loudest is taken where they
    cancel each other.

    Args:
        path: a file, or "archive.zip:offset:length".
        start, frames: first frame and count, in the target rate; -1 reads up to the end.
        sample_rate: the rate that is wanted; None takes the file's.
        resample: convert a file of another rate (needs the extra `resample`).
        out: float32, contiguous, `frames` long: where the samples go. Fresh memory for every file costs a sixth of its
            decoding.
    Returns:
        float32, `frames` samples, in [-1, 1] where the file has integers; and what its header says.
    Raises:
        ValueError: another sample rate, and `resample` is off.
        UnreadableAudio: the file cannot be decoded, ends before `start + frames`, or has NaN or infinity among its
            samples.
    """
    with open_audio(path) as file:
        rate = file.samplerate if sample_rate is None else sample_rate
        converts = file.samplerate != rate
        if converts and not resample:
            raise ValueError(
                f"{path} has a sample rate of {file.samplerate} Hz, task.sample_rate is {sample_rate} Hz: convert "
                "the file, or set task.resample=true to convert while reading"
            )
        if converts:
            _check_resampler()
        with _as_unreadable(path):
            if converts:
                audio, note = _read_resampled(file, start, frames, rate)
            else:
                audio, note = _read(file, start, file.frames - start if frames < 0 else frames, out)
            length = _stated_length(file, rate)
    check_samples(audio, start, sample_rate or file.samplerate)
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
    """Raise UnreadableAudio if a sample is NaN, infinite or absurdly large; `start` is the place of the first one
    in its file.
    """
    if len(wave) == 0 or (wave.max() < _LOUDEST and wave.min() > -_LOUDEST):  # NaN is neither
        return
    first = int(np.flatnonzero(~(np.abs(wave) < _LOUDEST))[0])
    raise UnreadableAudio(
        f"it has samples that are not numbers (NaN or infinity), the first at {(start + first) / rate:.2f} s"
        if not math.isfinite(wave[first])
        else f"it has samples that no recording has, such as {wave[first]:g} at {(start + first) / rate:.2f} s",
        lasts=True,
    )


def mix(channels: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The mean of channels, or the loudest of them where they cancel each other, as two of opposite polarity do.

    Args:
        channels: float32, S x channels.
    Returns:
        float32, S; and what was odd, or None.
    """
    with np.errstate(all="ignore"):  # `check_samples` looks for what is not finite
        mean = channels.mean(axis=1)
        powers = np.einsum("sc,sc->c", channels, channels)
        cancelled = float(np.dot(mean, mean)) < _CANCELLED * float(powers.mean())
    loudest = int(powers.argmax())
    if not cancelled or powers[loudest] == 0 or not np.isfinite(powers).all():
        return mean, None
    return channels[
        :, loudest
    ].copy(), f"its channels cancel each other when they are averaged: channel {loudest + 1} is read alone"


def _stated_length(file: SoundFile, rate: int) -> int | None:
    from fairseq.data.audio.streamed import CountedFile

    return None if isinstance(file, CountedFile) else resampled_length(file.frames, file.samplerate, rate)


def _read(file: SoundFile, start: int, frames: int, out: np.ndarray | None = None) -> tuple[np.ndarray, str | None]:
    """Frames in the file's own rate, averaged over channels; in `out` if there is one and the file has one channel."""
    audio, note = _decode(file, start, frames, out)
    if len(audio) < frames:
        raise UnreadableAudio(
            f"it ends after {min(file.frames, start + len(audio))} frames, {start + frames} are needed"
        )
    return (out if out is not None and file.channels == 1 else audio), note


def _decode(file: SoundFile, start: int, frames: int, out: np.ndarray | None = None) -> tuple[np.ndarray, str | None]:
    """As `_read`, but fewer frames where the file ends before."""
    import soundfile

    from fairseq.data.audio.streamed import CountedFile

    if frames <= 0:
        return np.zeros(0, dtype=np.float32), None
    if start:
        counted = isinstance(file, CountedFile)  # is asked for its length only if it has to be
        if not counted and start >= file.frames:
            raise UnreadableAudio(f"it ends after {file.frames} frames, {start + frames} are needed")
        try:
            file.seek(start)
        except soundfile.LibsndfileError:
            if counted and start >= file.frames:
                raise UnreadableAudio(f"it ends after {file.frames} frames, {start + frames} are needed") from None
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
    """S x channels: as many frames, or as many as there are, at the memory of the latter: a header may state more
    than it has.
    """
    size = max(1, _BLOCK // file.channels)
    blocks: list[np.ndarray] = [np.zeros((0, file.channels), dtype=np.float32)]
    while frames > 0:
        blocks.append(file.read(min(frames, size), dtype="float32", always_2d=True))
        frames -= size
        if len(blocks[-1]) < size:
            break
    return np.concatenate(blocks)


def _read_resampled(file: SoundFile, start: int, frames: int, rate: int) -> tuple[np.ndarray, str | None]:
    """The same frames of the file converted to `rate`, up to the filter's reach, as if all of it had been converted."""
    import soxr

    own = file.samplerate
    if frames < 0:
        frames = resampled_length(file.frames, own, rate) - start
    grid = rate // math.gcd(rate, own)  # frames of the target rate that begin exactly at a frame of the file's own
    context = math.ceil(_RESAMPLING_CONTEXT * rate)
    first = max(0, start - context) // grid * grid
    own_first = first * own // rate
    own_last = math.ceil((start + frames + context) * own / rate)
    audio, note = _decode(file, own_first, own_last - own_first)
    audio = soxr.resample(audio, own, rate)[start - first : start - first + frames]
    if len(audio) < frames - 1:  # the very last frame of a file may be lost to rounding
        raise UnreadableAudio(
            f"it ends after {file.frames} frames of {own} Hz, {start + frames} frames of {rate} Hz are needed"
        )
    return np.pad(audio, (0, frames - len(audio))), note


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
    normalize_volume: bool = False,
) -> tuple[np.ndarray, int]:
    """A whole waveform, or `frames` of it from `start`, by fairseq's name.

    Args:
        normalization: samples in [-1, 1]; else in the range of 16-bit integers.
        mono: average the channels.
        always_2d: keep the axis of channels where there is one only.
        output_sample_rate: convert to this rate (needs the extra `resample`); None: the file's.
        normalize_volume: scale what is read so that its loudest sample is 1 or -1, before channels are averaged and the
            rate is converted.
    Returns:
        float32, channels x samples (or samples), and its sample rate.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded; names it.
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
    """A waveform (channels x samples) at another volume, of one channel, or at another rate; see `get_waveform`.
    Silence stays silent.
    """
    if normalize_volume and (loudest := np.abs(waveform).max(initial=0)) > 0:
        waveform = waveform / loudest
    if to_mono and waveform.shape[0] > 1:
        waveform = waveform.mean(axis=0, keepdims=True)
    if to_sample_rate is None or to_sample_rate == sample_rate:
        return waveform, sample_rate
    import soxr

    return soxr.resample(waveform.T, sample_rate, to_sample_rate).T, to_sample_rate


def _read_channels(path_or_fp: str | BinaryIO, start: int, frames: int) -> tuple[np.ndarray, int]:
    """Frames of all channels, S x channels, or fewer where the file ends before; and their rate. -1 reads up to the
    end.
    """
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
