"""Augment training audio: change its speed and frequency response, and add noise.

This helps to generalise from few speakers: a speed change shifts pitch and formants like another voice, and a frequency
response imitates another microphone or room. Letters: K utterances, S samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.installed import advice

_SPEED = 4  # third number of the key of the speeds
_BANDS = 8  # knots of a frequency response, equally spaced in mel
_NOISE_RANGE = 30  # dB between the loudest and the softest noise
_MOST_TILT = 0.95  # maximum tilt of the noise: 0 is white, 1 would be brown


class Augmentation(NamedTuple):
    """Limits of the augmentation of training audio. The defaults change nothing.

    Speeds are drawn before audio is read, because batches are formed by the resulting lengths. The rest is drawn when a
    batch is created.
    """

    speed: float = 1.0  # the factor is drawn from 1 / speed to speed, log-uniformly
    eq_db: float = 0.0  # maximum gain or attenuation of a band in dB
    noise_db: float | None = None  # the loudest noise is this many dB below the speech; None: no noise

    def lengths(self, sizes: np.ndarray, indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of utterances after the speed change, K: a function of seed, epoch and index.

        Args:
            sizes: samples before the change, K.
            indices: indices of the utterances, K; each copy of an utterance has its own index.
            seed: seed of the run.
            epoch: the epoch.
        """
        if self.speed == 1 or len(indices) == 0:
            return sizes
        drawn = np.random.default_rng([seed, epoch, _SPEED]).random(int(indices.max()) + 1)[indices]
        return np.rint(sizes * self.speed ** (1 - 2 * drawn)).astype(np.int64)

    def range_of(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (shortest, longest) possible results of `lengths`."""
        return np.rint(sizes / self.speed).astype(np.int64), np.rint(sizes * self.speed).astype(np.int64)

    def apply(self, wave: np.ndarray, length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Augment a recording.

        Args:
            wave: float32, S.
            length: samples of the result; S / length is the speed factor.
            sample_rate: Hz.
            rng: the generator for response and noise.
        Returns:
            float32, `length`.
        """
        if length != len(wave):
            wave = with_speed(wave, length)
        if self.eq_db == 0 and self.noise_db is None:
            return wave
        padded = _fast_length(length)
        spectrum = np.fft.rfft(wave, padded)
        frequencies = np.linspace(0, sample_rate / 2, len(spectrum))
        if self.eq_db:
            spectrum *= response(frequencies, rng.uniform(-self.eq_db, self.eq_db, _BANDS))
        if self.noise_db is not None:
            noise = noise_spectrum(len(spectrum), rng)
            # the noise also covers the padding
            loudness = np.linalg.norm(spectrum) / np.linalg.norm(noise) * np.sqrt(padded / length)
            spectrum += noise * (loudness * 10 ** (-(self.noise_db + _NOISE_RANGE * rng.random()) / 20))
        return np.fft.irfft(spectrum, padded)[:length].astype(np.float32)


def _fast_length(length: int) -> int:
    """Return an even length >= `length` with a fast Fourier transform: at most 32 times a power of 2."""
    step = max(2, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


def check_augmentation(augmentation: Augmentation, key: str) -> list[str]:
    """Return one sentence per invalid setting; `key` is their config key."""
    problems = []
    if not 1 <= augmentation.speed <= 2:
        problems.append(
            f"{key}.speed is {augmentation.speed}; it must be from 1 (off) to 2 (between half and double speed)."
        )
    if not 0 <= augmentation.eq_db <= 60:
        problems.append(f"{key}.eq_db is {augmentation.eq_db}; it must be from 0 (off) to 60 dB.")
    if augmentation.noise_db is not None and not -20 <= augmentation.noise_db <= 100:
        problems.append(
            f"{key}.noise_db is {augmentation.noise_db}; it must be from -20 (louder than the speech) to 100, or null."
        )
    if augmentation.speed > 1:
        try:
            import soxr  # noqa: F401
        except ImportError:
            problems.append(f"{key}.speed is {augmentation.speed}, but soxr is not installed: {advice('resample')}.")
    return problems


def with_speed(wave: np.ndarray, length: int) -> np.ndarray:
    """Resample a recording to `length` samples, which also shifts pitch and formants."""
    import soxr

    changed = soxr.resample(wave, float(len(wave)), float(length), quality="MQ")[:length]
    return np.pad(changed, (0, length - len(changed)))  # the filter can end one sample early


def response(frequencies: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the factors of a smooth frequency response.

    Args:
        frequencies: Hz, ascending from 0.
        gains: dB at knots equally spaced in mel, from 0 to the highest frequency.
    """
    mels = np.log1p(frequencies / 700)
    knots = np.linspace(0, mels[-1], len(gains))
    return 10 ** (np.interp(mels, knots, gains) / 20)


def noise_spectrum(bins: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the spectrum of Gaussian noise with random tilt, from white to nearly brown; complex, `bins`."""
    noise = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    tilt = rng.uniform(0, _MOST_TILT)
    # a one-pole low-pass filter
    return noise / np.sqrt(1 + tilt**2 - 2 * tilt * np.cos(np.linspace(0, np.pi, bins, dtype=np.float32)))
