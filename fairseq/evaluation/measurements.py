"""Statistics of a model's outputs and its audio, collected on the fly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fairseq.inference.audio import AudioSource

_LOUD = 1e-3  # of full scale


@dataclass
class OutputStatistics:
    """Counts of the most likely symbol over all frames."""

    frames: int = 0
    # by symbol: frames in which it is the most likely one
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    confidence: float = 0.0  # sum over frames of the most likely symbol's probability

    def watch(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass log-probabilities through and count them."""
        for log_probs in pieces:
            self.add(log_probs)
            yield log_probs

    def add(self, log_probs: np.ndarray) -> None:
        path = log_probs.argmax(axis=1)
        found = np.bincount(path, minlength=log_probs.shape[1])
        self.counts = found if len(self.counts) == 0 else self.counts + found
        self.frames += len(path)
        self.confidence += float(np.exp(np.take_along_axis(log_probs, path[:, None], axis=1)).sum())

    def share(self, symbol: int) -> float:
        """Return the share of frames in which `symbol` is the most likely one."""
        return float(self.counts[symbol] / self.frames) if self.frames else 0.0

    def used(self, silent: frozenset[int]) -> int:
        """Count symbols with a text that are the most likely one in some frame."""
        return sum(1 for symbol, count in enumerate(self.counts.tolist()) if count and symbol not in silent)


@dataclass
class AudioFacts:
    """Measurements of a few audio files."""

    own_rates: dict[int, int]  # sample rate -> files
    quiet: int  # files without a sample louder than 0.001 of full scale
    files: int
    # share of the energy above half the Nyquist frequency of the model's rate (above 4 kHz at 16 kHz)
    above_half: float


def measure_audio(sources: Sequence[AudioSource], seconds: float = 10.0) -> AudioFacts:
    """Measure sample rates, loudness and bandwidth of the first `seconds` of open sources."""
    rates: dict[int, int] = {}
    quiet, low, high = 0, 0.0, 0.0
    for source in sources:
        rates[source.own_rate] = rates.get(source.own_rate, 0) + 1
        wave = source.read(0, min(source.num_samples, int(seconds * source.sample_rate)))
        quiet += int(len(wave) == 0 or float(np.abs(wave).max()) < _LOUD)
        power = np.abs(np.fft.rfft(wave - wave.mean())) ** 2 if len(wave) else np.zeros(2)
        low, high = low + float(power[: len(power) // 2].sum()), high + float(power[len(power) // 2 :].sum())
    return AudioFacts(rates, quiet, len(sources), high / (low + high) if low + high > 0 else 0.0)
