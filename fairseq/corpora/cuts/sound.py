"""A recording as windows of 16 kHz samples, at constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fairseq.corpora.cuts.detector import RATE, STEP
from fairseq.data.audio.audio_utils import UnreadableAudio, check_samples, mix
from fairseq.installed import advice

if TYPE_CHECKING:
    from soundfile import SoundFile

WINDOW = 1024 * STEP  # samples at 16 kHz: 32.8 s
_BLOCK = 1 << 19  # values decoded at a time

Convert = Callable[[np.ndarray, bool], np.ndarray]  # (block, whether it is the last) -> 16 kHz


def windows(file: SoundFile, start: int, frames: int) -> Iterator[np.ndarray]:
    """Yield a section of an open file as windows, channels averaged, at 16 kHz.

    Args:
        start, frames: the section, in frames at the file's own rate.
    Returns:
        float32, `WINDOW` samples each; the last window has fewer, filled up with zeros to a multiple of 512.
    Raises:
        UnreadableAudio: the file cannot be decoded, ends early, or contains NaN or infinity.
        ValueError: the file has another rate, and soxr is not installed.
    """
    convert = _converter(file.samplerate)
    waiting = np.zeros(0, np.float32)
    for block, last in _blocks(file, start, frames):
        waiting = np.concatenate([waiting, convert(block, last)])
        while len(waiting) >= WINDOW:
            yield waiting[:WINDOW]
            waiting = waiting[WINDOW:]
    if len(waiting):
        yield np.pad(waiting, (0, -len(waiting) % STEP))


def _blocks(file: SoundFile, start: int, frames: int) -> Iterator[tuple[np.ndarray, bool]]:
    size = max(1, _BLOCK // file.channels)
    done = 0
    try:
        if start:
            file.seek(start)
        while done < frames:
            block = file.read(min(size, frames - done), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise UnreadableAudio(f"it ends after {start + done} frames, but {start + frames} are needed")
            wave = block[:, 0] if file.channels == 1 else mix(block)[0]
            check_samples(wave, start + done, file.samplerate)
            done += len(block)
            yield wave, done >= frames
    except (RuntimeError, OSError, EOFError, ValueError) as error:  # libsndfile's errors are RuntimeErrors
        raise UnreadableAudio(str(error)) from error


def _converter(rate: int) -> Convert:
    if rate == RATE:
        return lambda block, last: block
    try:
        import soxr
    except ImportError as error:
        raise ValueError(f"finding speech in a file of {rate} Hz needs soxr: {advice('vad')}") from error
    stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="MQ")
    return lambda block, last: stream.resample_chunk(block, last=last)
