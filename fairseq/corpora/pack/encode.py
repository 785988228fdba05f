"""Turn an utterance into the bytes of one audio file; this runs in the workers."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from fairseq.corpora.pack.source import Item, Seconds
from fairseq.data.audio.audio_utils import (
    UnreadableAudio,
    check_samples,
    open_audio,
    read_samples,
    resampled_length,
)
from fairseq.data.audio.contents import contents

CODECS = ("flac", "wav", "copy")
BITS = (16, 24)
_COPIED = {"WAV": "wav", "WAVEX": "wav", "FLAC": "flac", "OGG": "ogg"}  # libsndfile's name -> extension
_DEEP = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # more than 16 bits
_SLACK = 0.05  # seconds by which a part may end after its file: times in manifests are rounded
_PAUSES = (0.5, 2.0)  # seconds before another try: network file systems have short failures
_BLOCK = 1 << 20  # samples that are converted at a time
_numbers = itertools.count(1)


class Settings(NamedTuple):
    """What the audio in the shards should be."""

    codec: str = "flac"  # one of CODECS
    sample_rate: int | None = None  # Hz; None: each file's own
    bits: int | None = None  # one of BITS; None: 16, or 24 where the source has more than 16


class Encoded(NamedTuple):
    """An audio file."""

    data: bytes
    extension: str
    frames: int
    sample_rate: int  # Hz
    clipped: int = 0  # samples outside of [-1, 1], which an integer format cannot hold


class LeftOut(NamedTuple):
    """An utterance that cannot be packed."""

    reason: str


def encode(item: Item, settings: Settings) -> Encoded | LeftOut:
    """Encode an utterance, averaged over channels; the reason if its audio cannot be read.

    The result depends only on the arguments and the version of libsndfile.
    """
    if item.problem is not None:
        return LeftOut(item.problem)
    for pause in (*_PAUSES, None):
        try:
            return _encode(item, settings)
        except UnreadableAudio as error:
            cause = error.__cause__
            passing = isinstance(cause, OSError) and not isinstance(
                cause, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
            )
            if pause is None or not passing:
                return LeftOut(" ".join(str(error).split()))
            time.sleep(pause)
    raise AssertionError("the last try returns")


def _encode(item: Item, settings: Settings) -> Encoded | LeftOut:
    if item.load is not None:
        samples, rate = item.load()
        check_samples(samples, 0, rate)
        target = settings.sample_rate or rate
        if target != rate:
            import soxr

            samples = soxr.resample(samples, rate, target)
        return _as_file(samples, target, settings, deep=False)
    if item.data is not None:
        with _memory_file(item.data) as place:
            return _encode_place(item, place, settings)
    assert item.place is not None
    return _encode_place(item, item.place, settings)


def _encode_place(item: Item, place: str, settings: Settings) -> Encoded | LeftOut:
    with open_audio(place) as file:
        rate, total, form, subtype = file.samplerate, file.frames, file.format, file.subtype
    start, frames = part(item, rate, total)
    if frames <= 0:
        return LeftOut(
            "it contains no audio" if total <= 0 else f"it begins at the end of the file, or after ({total})"
        )
    target = settings.sample_rate or rate
    if target == rate:
        samples = read_samples(place, start, frames).wave
    else:
        # the samples that a run with task.resample reads
        first, count = start * target // rate, resampled_length(frames, rate, target)
        samples = read_samples(place, first, count, target, resample=True).wave
    if settings.codec == "copy" and form in _COPIED and (start, frames) == (0, total):
        return Encoded(_bytes_of(item, place), _COPIED[form], frames, rate)
    return _as_file(samples, target, settings, subtype in _DEEP)


def part(item: Item, rate: int, total: int) -> tuple[int, int]:
    """Return the first sample and the number of samples of an utterance in its file.

    Args:
        rate: the file's sample rate in Hz.
        total: its length in samples.
    """
    if item.seconds is None:
        return item.start, total - item.start if item.frames < 0 else item.frames
    return _part_of_seconds(item.seconds, rate, total)


def _part_of_seconds(seconds: Seconds, rate: int, total: int) -> tuple[int, int]:
    start, slack = int(seconds.start * rate + 0.5), int(_SLACK * rate)
    if seconds.duration is None:
        return start, total - start
    frames = int(seconds.duration * rate + 0.5)
    over = start + frames - total
    if 0 < over <= slack or (start == 0 and -slack <= over < 0):  # a whole file whose length was rounded
        frames -= over
    return start, frames


def _as_file(samples: np.ndarray, rate: int, settings: Settings, deep: bool) -> Encoded:
    """Encode float32 samples, S.

    libsndfile would scale floats by 2^15 - 1, but integers by 2^15 when it reads them: scaled here, 16- and 24-bit
    audio comes back bit for bit.
    """
    import soundfile

    if len(samples) == 0:
        raise UnreadableAudio("it contains no audio", lasts=True)
    bits = settings.bits or (24 if deep and not _is_16_bit(samples) else 16)
    limit = (1 << (bits - 1)) - 1
    values = np.empty(len(samples), dtype=np.int16 if bits == 16 else np.int32)
    clipped = 0
    for begin in range(0, len(samples), _BLOCK):  # in blocks: recordings can be hours long
        scaled = np.rint(samples[begin : begin + _BLOCK] * np.float32(1 << (bits - 1)))
        clipped += int(np.count_nonzero((scaled > limit + 1) | (scaled < -limit - 1)))
        values[begin : begin + _BLOCK] = np.clip(scaled, -limit - 1, limit)
    if bits == 24:
        values <<= 8  # libsndfile takes the upper bits
    container = io.BytesIO()
    form = "WAV" if settings.codec == "wav" else "FLAC"
    try:
        soundfile.write(container, values, rate, format=form, subtype=f"PCM_{bits}")
    except soundfile.LibsndfileError as error:
        raise UnreadableAudio(f"{form} cannot hold it ({rate} Hz): {error.error_string}", lasts=True) from error
    return Encoded(container.getvalue(), form.lower(), len(samples), rate, clipped)


def _is_16_bit(samples: np.ndarray) -> bool:
    for begin in range(0, len(samples), _BLOCK):
        scaled = samples[begin : begin + _BLOCK] * np.float32(1 << 15)
        if not np.array_equal(np.rint(scaled), scaled):
            return False
    return True


def _bytes_of(item: Item, place: str) -> bytes:
    """Return the bytes of a whole audio file."""
    if item.data is not None:
        return item.data
    with contents(place).binary() as file:
        return file.read()


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """Make a file in memory, which is gone when this process ends however it ends; yield its path (Linux)."""
    descriptor = os.memfd_create("audio")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        number = next(_numbers)  # lengths that were counted are kept by path, size and time of the file
        os.utime(descriptor, ns=(number, number))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
