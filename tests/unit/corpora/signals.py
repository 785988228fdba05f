"""Made-up speech for tests: bursts of harmonics with pauses."""

from __future__ import annotations

import numpy as np

RATE = 16000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Return bursts of voice and hiss at most 0.3 s long, with pauses, over a quiet background; float32, S."""
    rng = np.random.default_rng(seed)
    wave = 1e-4 * rng.standard_normal(round(seconds * RATE))
    place = 0
    while place < len(wave):
        length = int(rng.integers(RATE // 10, 3 * RATE // 10))
        burst = wave[place : place + length]
        time = np.arange(len(burst)) / RATE
        pitch = rng.uniform(90, 220)
        envelope = np.sin(np.pi * np.arange(len(burst)) / length)
        voice = sum(np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 6)) / k for k in range(1, 20))
        burst += envelope * rng.uniform(0.05, 0.15) * (voice + 0.3 * rng.standard_normal(len(burst)))
        place += length + int(rng.integers(RATE // 20, RATE // 4))
    return (np.round(np.clip(wave, -1, 1) * 32767) / 32768).astype(np.float32)
