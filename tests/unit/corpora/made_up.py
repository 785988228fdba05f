"""Small made-up audio for the tests of packing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def noise(samples: int, seed: int, channels: int = 1) -> np.ndarray:
    """16-bit values, S or S x channels."""
    shape = samples if channels == 1 else (samples, channels)
    return np.random.default_rng(seed).integers(-8000, 8000, shape, dtype=np.int16)


def audio_bytes(samples: int, seed: int, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(samples, seed), RATE, format=form, subtype="PCM_16")
    return file.getvalue()


def write_audio(path: Path, samples: int, seed: int, rate: int = RATE, subtype: str = "PCM_16") -> np.ndarray:
    """Write a file; return its samples, float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(samples, seed), rate, subtype=subtype)
    return (noise(samples, seed) / 32768).astype(np.float32)
