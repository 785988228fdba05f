"""Log mel filter bank features: fairseq's `get_fbank`. wav2vec 2.0 does not use them."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from fairseq.data.audio.audio_utils import get_waveform

_FRAME_SECONDS, _SHIFT_SECONDS = 0.025, 0.010
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_SMALLEST = np.finfo(np.float32).eps  # lower bound of energies before the logarithm


def get_fbank(path_or_fp: str | BinaryIO, n_bins: int = 80) -> np.ndarray:
    """Compute Kaldi's filter bank features without dither, from the mean of a file's channels.

    Args:
        path_or_fp: an audio file, read at its own sample rate.
        n_bins: number of mel filters.
    Returns:
        T x n_bins, float32: natural logarithms of energies, one frame every 10 ms, only frames fully inside the file.
    Source: Kaldi's compute-fbank-feats with its defaults (25 ms povey window, pre-emphasis 0.97, from 20 Hz to half the
    sample rate).
    """
    waveform, sample_rate = get_waveform(path_or_fp, normalization=False)
    return log_mel_energies(waveform[0], sample_rate, n_bins)


def log_mel_energies(samples: np.ndarray, sample_rate: int, n_bins: int) -> np.ndarray:
    """See `get_fbank`.

    Args:
        samples: S, in the range of 16-bit integers.
    """
    length, shift = int(sample_rate * _FRAME_SECONDS), int(sample_rate * _SHIFT_SECONDS)
    if len(samples) < length:
        return np.zeros((0, n_bins), dtype=np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[::shift]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = np.hanning(length) ** 0.85  # Kaldi's povey window
    fft_size = 1 << (length - 1).bit_length()
    power = np.abs(np.fft.rfft((frames - _PREEMPHASIS * before) * window, fft_size)) ** 2
    energies = power[:, :-1] @ mel_filters(n_bins, fft_size, sample_rate).T
    return np.log(np.maximum(energies, _SMALLEST)).astype(np.float32)


def mel_filters(n_bins: int, fft_size: int, sample_rate: int) -> np.ndarray:
    """Return triangular filters on the mel scale, n_bins x fft_size / 2, without the bin at half the sample rate."""
    mel = _mel(np.arange(fft_size // 2) * sample_rate / fft_size)
    edges = np.linspace(_mel(np.array(_LOWEST_HZ, dtype=float)), _mel(np.array(sample_rate / 2)), n_bins + 2)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((mel - left) / (center - left), (right - mel) / (right - center)))


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)
