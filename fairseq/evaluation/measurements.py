"""What a model's outputs and its audio look like, measured while they pass by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fairseq.inference.audio import AudioSource

_LOUD = 1e-3  # of full scale


@dataclass
class OutputStatistics:
    """Counts over all frames."""

    frames: int = 0
    # frames whose likeliest symbol is this
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    confidence: float = 0.0  # sum over frames of the likeliest symbol's probability

    def watch(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same log-probabilities, counted while they are read."""
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
        """Share of frames whose likeliest symbol this is."""
        return float(self.counts[symbol] / self.frames) if self.frames else 0.0

    def used(self, silent: frozenset[int]) -> int:
        """Symbols with a text that are the likeliest somewhere."""
        return sum(1 for symbol, count in enumerate(self.counts.tolist()) if count and symbol not in silent)


@dataclass
class AudioFacts:
    """A few files' sound."""

    own_rates: dict[int, int]  # sample rate -> files
    quiet: int  # files without a sample louder than 0.001 of full scale
    files: int
    # share of the energy above half of the highest frequency that the model's rate can hold (above 4 kHz at 16 kHz)
    above_half: float


def measure_audio(sources: Sequence[AudioSource], seconds: float = 10.0) -> AudioFacts:
    """Rates, loudness and bandwidth of the beginnings of open sources."""
    rates: dict[int, int] = {}
    quiet, low, high = 0, 0.0, 0.0
    for source in sources:
        rates[source.own_rate] = rates.get(source.own_rate, 0) + 1
        wave = source.read(0, min(source.num_samples, int(seconds * source.sample_rate)))
        quiet += int(len(wave) == 0 or float(np.abs(wave).max()) < _LOUD)
        power = np.abs(np.fft.rfft(wave - wave.mean())) ** 2 if len(wave) else np.zeros(2)
        low, high = low + float(power[: len(power) // 2].sum()), high + float(power[len(power) // 2 :].sum())
    return AudioFacts(rates, quiet, len(sources), high / (low + high) if low + high > 0 else 0.0)
