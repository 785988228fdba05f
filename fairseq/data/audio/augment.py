"""Recordings made different in training: played faster or slower, with another frequency response, in noise.

Few speakers do not teach what speech has in common: other speeds move pitch and formants as other voices do, other
responses are other microphones and rooms. Letters: K utterances, S samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.installed import advice

_SPEED = 4  # third number of the key of the speeds
_BANDS = 8  # knots of a frequency response, equally far apart in mel
_NOISE_RANGE = 30  # dB between the loudest noise and the softest
_MOST_TILT = 0.95  # of noise: 0 is white, 1 would be brown


class Augmentation(NamedTuple):
    """How far training's recordings may be changed. The defaults change nothing.

    Speeds are known before anything is read, since batches are cut by the lengths that result; the rest is drawn where
    a batch is made.
    """

    speed: float = 1.0  # the factor is drawn between 1 / speed and speed, evenly in its logarithm
    eq_db: float = 0.0  # most that a band is raised or lowered
    noise_db: float | None = None  # the loudest noise is this far below the speech; None: no noise

    def lengths(self, sizes: np.ndarray, indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Samples that utterances have after their change of speed: a function of seed, epoch and index.

        Args:
            sizes: samples before, K.
            indices: numbers of the utterances, K; further copies of an utterance have numbers of their own.
        """
        if self.speed == 1 or len(indices) == 0:
            return sizes
        drawn = np.random.default_rng([seed, epoch, _SPEED]).random(int(indices.max()) + 1)[indices]
        return np.rint(sizes * self.speed ** (1 - 2 * drawn)).astype(np.int64)

    def range_of(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shortest, longest) that `lengths` may give."""
        return np.rint(sizes / self.speed).astype(np.int64), np.rint(sizes * self.speed).astype(np.int64)

    def apply(self, wave: np.ndarray, length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
        """A recording as training hears it.

        Args:
            wave: float32, S.
            length: samples of the result; speed is its ratio to S.
            sample_rate: Hz.
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
            # the padding is noise too
            loudness = np.linalg.norm(spectrum) / np.linalg.norm(noise) * np.sqrt(padded / length)
            spectrum += noise * (loudness * 10 ** (-(self.noise_db + _NOISE_RANGE * rng.random()) / 20))
        return np.fft.irfft(spectrum, padded)[:length].astype(np.float32)


def _fast_length(length: int) -> int:
    """An even length from here on whose Fourier transform is quick: at most 32 times a power of 2."""
    step = max(2, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


def check_augmentation(augmentation: Augmentation, key: str) -> list[str]:
    """What is wrong with the settings; a sentence each. `key` is their place in the config."""
    problems = []
    if not 1 <= augmentation.speed <= 2:
        problems.append(
            f"{key}.speed is {augmentation.speed}; it may be from 1 (as recorded) to 2 (between half and double speed)."
        )
    if not 0 <= augmentation.eq_db <= 60:
        problems.append(f"{key}.eq_db is {augmentation.eq_db}; it may be from 0 (as recorded) to 60 dB.")
    if augmentation.noise_db is not None and not -20 <= augmentation.noise_db <= 100:
        problems.append(
            f"{key}.noise_db is {augmentation.noise_db}; it may be from -20 (louder than the speech) to 100, or null."
        )
    if augmentation.speed > 1:
        try:
            import soxr  # noqa: F401
        except ImportError:
            problems.append(f"{key}.speed is {augmentation.speed}, but soxr is not installed: {advice('resample')}.")
    return problems


def with_speed(wave: np.ndarray, length: int) -> np.ndarray:
    """The recording played in `length` samples; pitch and formants move along."""
    import soxr

    changed = soxr.resample(wave, float(len(wave)), float(length), quality="MQ")[:length]
    return np.pad(changed, (0, length - len(changed)))  # the filter may end a sample early


def response(frequencies: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Factors of a smooth frequency response.

    Args:
        frequencies: Hz, ascending from 0.
        gains: dB at knots that are equally far apart in mel, from 0 to the highest frequency.
    """
    mels = np.log1p(frequencies / 700)
    knots = np.linspace(0, mels[-1], len(gains))
    return 10 ** (np.interp(mels, knots, gains) / 20)


def noise_spectrum(bins: int, rng: np.random.Generator) -> np.ndarray:
    """Spectrum of Gaussian noise, from white to nearly brown; complex, `bins`."""
    noise = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    tilt = rng.uniform(0, _MOST_TILT)
    # a one-pole low pass
    return noise / np.sqrt(1 + tilt**2 - 2 * tilt * np.cos(np.linspace(0, np.pi, bins, dtype=np.float32)))
