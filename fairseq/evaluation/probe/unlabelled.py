"""A score that needs no transcripts: how much of what the codes say survives noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fairseq.data.audio.manifest import Manifest
from fairseq.inference.features import check_feature, extract
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import read_windows
from fairseq.inference.windows import WindowSettings

NOISE_DB = 10.0  # SNR of the white noise
_DRAW, _NOISE = 0x5C0E, 0x5C0F  # keys of the seeds that draw utterances and noise


class CodeScore(NamedTuple):
    """What the codes of some speech share with the codes of the same speech in noise.

    Args:
        information: mutual information per frame in bits, a mean over the codebook's groups; 0 if the codebook has
            collapsed or if noise decides the codes, log2(V) at most. Larger is better.
        kept: frames whose code is the same, in per cent, a mean over groups.
        perplexity: of the codes without noise, a mean over groups.
        frames: that were compared.
    """

    information: float
    kept: float
    perplexity: float
    frames: int


def choose(manifest: Manifest, minutes: float, seed: int, sample_rate: int) -> list[int]:
    """Draw utterances by seed until they have so many minutes; at least one, in the manifest's order."""
    order = np.random.default_rng([_DRAW, seed]).permutation(len(manifest)).tolist()
    ends = np.cumsum([int(manifest.sizes[index]) for index in order])
    return sorted(order[: max(1, int((ends <= minutes * 60 * sample_rate).sum()))])


def code_score(
    model: SpeechModel,
    manifest: Manifest,
    chosen: list[int],
    windows: WindowSettings,
    seed: int = 1,
    tick: Callable[[], None] | None = None,
) -> CodeScore:
    """Compare the codes of each utterance with those of the same utterance in white noise.

    Args:
        chosen: of the manifest's utterances, such as those that `choose` returns.
        tick: called after each utterance.
    Raises:
        ValueError: the model has no codebook, or audio cannot be read, or none of it is as long as a frame.
    """
    check_feature(model, "codes")
    clean: list[np.ndarray] = []
    noisy: list[np.ndarray] = []
    for index in chosen:
        source = model.open(manifest.audio(index))
        generator = np.random.default_rng([_NOISE, seed, index])
        if model.num_frames(source.num_samples) > 0:
            for window, wave in read_windows(model, source, windows):
                for found, heard in ((clean, wave), (noisy, in_noise(wave, generator))):
                    found.append(extract(model, [heard], ["codes"])[0]["codes"][window.keep])
        if tick is not None:
            tick()
    if not clean:
        raise ValueError("none of the chosen audio is as long as one frame")
    return compare(np.concatenate(clean), np.concatenate(noisy))


def in_noise(wave: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add white noise, NOISE_DB below the waveform's power; S float32."""
    deviation = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) * 10 ** (-NOISE_DB / 20)
    return wave + (deviation * generator.standard_normal(len(wave))).astype(np.float32)


def compare(clean: np.ndarray, noisy: np.ndarray) -> CodeScore:
    """Score codes, both T x G."""
    groups = range(clean.shape[1])
    return CodeScore(
        information=float(np.mean([mutual_information(clean[:, group], noisy[:, group]) for group in groups])),
        kept=100 * float((clean == noisy).mean()),
        perplexity=float(np.mean([2 ** _entropy(clean[:, group])[0] for group in groups])),
        frames=len(clean),
    )


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mutual information of two columns of codes in bits, not below 0; T each.

    Few frames make it look larger, by about half the number of occupied cells over T; that is subtracted (Miller 1955).
    """
    joint = one.astype(np.int64) * (int(other.max()) + 1) + other
    (first, cells_1), (second, cells_2), (both, cells) = (_entropy(values) for values in (one, other, joint))
    bias = (cells - cells_1 - cells_2 + 1) / (2 * len(one) * np.log(2))
    return max(0.0, first + second - both - bias)


def _entropy(values: np.ndarray) -> tuple[float, int]:
    """Entropy in bits, and the number of different values."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()), len(counts)
