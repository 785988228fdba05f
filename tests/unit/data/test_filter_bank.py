"""Filter bank features against Kaldi's definition, as torchaudio computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from fairseq.data.audio.audio_utils import get_fbank
from fairseq.data.audio.filter_bank import log_mel_energies

# torchaudio 2.11.0: compliance.kaldi.fbank of this chirp, num_mel_bins=5 at 16 kHz
CHIRP = (10000 * np.sin(np.arange(800, dtype=np.float32) ** 2 / 900)).astype(np.float32)
EXPECTED = [
    [23.3214, 26.0573, 25.9947, 21.3726, 6.9688],
    [14.4935, 24.3017, 27.4180, 26.6780, 16.0314],
    [7.8689, 14.3750, 26.4119, 28.2993, 25.6687],
]


def test_energies_are_kaldis() -> None:
    energies = log_mel_energies(CHIRP, 16000, 5)
    assert energies.dtype == np.float32 and np.abs(energies - EXPECTED).max() < 2e-3


def test_other_rates_have_other_frames() -> None:
    assert log_mel_energies(CHIRP, 8000, 4).shape == (8, 4)  # (800 - 200) / 80 + 1 frames
    assert log_mel_energies(CHIRP[:399], 16000, 4).shape == (0, 4)


def test_files_are_read_in_the_range_of_16_bit_integers(tmp_path: Path) -> None:
    path = tmp_path / "chirp.wav"
    soundfile.write(path, CHIRP / 2.0**15, 16000, subtype="FLOAT")
    assert np.abs(get_fbank(str(path), n_bins=5) - EXPECTED).max() < 2e-3
    assert get_fbank(str(path)).shape == (3, 80)


def test_silence_is_finite() -> None:
    assert np.isfinite(log_mel_energies(np.zeros(800, dtype=np.float32), 16000, 5)).all()
