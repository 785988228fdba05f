"""Scores of a pre-trained checkpoint that need no transcripts: the candidates that probe_study.py compares."""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from small_runs import EXAMPLES
from torch import Tensor

from fairseq.data.audio.manifest import Manifest
from fairseq.inference.features import extract
from fairseq.inference.model import SpeechModel

CROP = 4.0  # seconds of an utterance, at most
TEMPERATURE = 0.1
NEGATIVES = 100
SPAN = 10  # frames: every second span of this length is masked
NOISE_DB = 10.0  # SNR of white noise
SPEED = 1.1
# words of each line differ in one sound
WORDS = (
    "bat cat mat pat rat sat",
    "beat boat boot bait bite bought",
    "ten pen den men hen",
    "sip sick sin sit sill",
)
VOICES = ("en-us+f1", "en-us+f4", "en-us+m1", "en-us+m3", "en-gb-x-rp+f2", "en-gb-x-rp+m2", "en+m4", "en+f5")
PLACES = 12  # a word's features are compared at this many relative times


def scores(path: Path, manifest: Path, minutes: float) -> dict[str, float]:
    """Every score of a checkpoint; the audio is the manifest's first utterances."""
    model = SpeechModel.load(path, "cpu", "fp32", {"data": str(manifest.parent)})
    waves, speakers = read(manifest, minutes, model.sample_rate)
    blocks = len(model.encoder.encoder.layers)
    depths = {"extractor": "extractor", "middle": str(blocks // 2 - (blocks % 2 == 0)), "last": str(blocks - 1)}
    found = [extract(model, [wave], [*depths.values(), "codes"])[0] for wave in waves]
    codes = [row["codes"] for row in found]
    bits, accuracy = contrast(model, waves)
    generator = np.random.default_rng(1)
    noisy = [extract(model, [with_noise(wave, generator)], ["codes"])[0]["codes"] for wave in waves]
    fast = [extract(model, [faster(wave)], ["codes"])[0]["codes"] for wave in waves]
    fast = [resampled(row, len(one)) for row, one in zip(fast, codes, strict=True)]
    whole = np.concatenate(codes)
    result = {
        "InfoNCE": bits,
        "accuracy": accuracy,
        "code perplexity": float(np.mean([2 ** entropy(column) for column in whole.T])),
        "codes kept in noise": kept(codes, noisy),
        "information kept in noise": shared(whole, np.concatenate(noisy)),
        "codes kept at another speed": kept(codes, fast),
        "information kept at another speed": shared(whole, np.concatenate(fast)),
        "information on the speaker": shared(whole, np.repeat(speakers, [len(row) for row in codes])[:, None]),
        **{
            f"rank of {name}": effective_rank(np.concatenate([row[depth] for row in found]))
            for name, depth in depths.items()
        },
    }
    spoken = {key: extract(model, [wave], list(depths.values()))[0] for key, wave in words().items()}
    for name, depth in depths.items():
        result[f"ABX of {name}"] = abx({key: row[depth] for key, row in spoken.items()})
    return {key: round(float(value), 5) for key, value in result.items()}


def read(manifest: Path, minutes: float, sample_rate: int) -> tuple[list[np.ndarray], list[int]]:
    """Crops in equal shares of the manifest, and the number of each one's speaker: the folder's first two levels up."""
    listed = Manifest(manifest)
    number = min(len(listed.sizes), round(minutes * 60 / CROP))
    chosen = [index * len(listed.sizes) // number for index in range(number)]
    waves, names = [], []
    for index in chosen:
        audio = str(listed.audio(index))
        wave, rate = soundfile.read(audio, dtype="float32")
        assert rate == sample_rate
        waves.append(wave[: round(CROP * rate)])
        names.append(Path(audio).parent.parent.name)
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return waves, [order[name] for name in names]


@torch.inference_mode()
def contrast(model: SpeechModel, waves: list[np.ndarray]) -> tuple[float, float]:
    """InfoNCE in bits per masked frame, and the share of frames whose target is found among NEGATIVES others."""
    encoder = model.encoder
    encoder.logit_temp = TEMPERATURE
    generator = torch.Generator().manual_seed(1)
    total, right, count = 0.0, 0, 0
    for wave in waves:
        source, _ = model.batch([wave])
        positions = [frame for frame in range(model.num_frames(len(wave))) if frame // SPAN % 2]
        number = len(positions)
        others = torch.randint(number - 1, (number, NEGATIVES), generator=generator)
        others += others >= torch.arange(number).unsqueeze(1)
        logits: Tensor = encoder(
            source,
            masked_positions=torch.tensor([positions]),
            masked_weights=torch.ones(1, number),
            negative_indices=others.unsqueeze(0),
        )["x"][:, 0].T
        total += float(F.cross_entropy(logits, torch.zeros(number, dtype=torch.int64), reduction="sum"))
        right += int((logits[:, 1:].amax(dim=1) < logits[:, 0]).sum())
        count += number
    return total / count / np.log(2), right / count


def with_noise(wave: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    deviation = np.sqrt(np.mean(wave**2)) * 10 ** (-NOISE_DB / 20)
    return (wave + deviation * generator.standard_normal(len(wave))).astype(np.float32)


def faster(wave: np.ndarray) -> np.ndarray:
    places = np.arange(0, len(wave) - 1, SPEED)
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def resampled(rows: np.ndarray, count: int) -> np.ndarray:
    """The row at each relative time."""
    return rows[np.minimum((np.arange(count) * len(rows)) // max(1, count), len(rows) - 1)]


def entropy(values: np.ndarray) -> float:
    """In bits."""
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(shares * np.log2(shares)).sum())


def kept(codes: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.mean(np.concatenate(codes) == np.concatenate(others)))


def shared(codes: np.ndarray, others: np.ndarray) -> float:
    """Mutual information of codes and others in bits, a mean over groups; N x G, and N x G or N x 1."""
    total = 0.0
    for group in range(codes.shape[1]):
        one, other = codes[:, group], others[:, min(group, others.shape[1] - 1)]
        total += entropy(one) + entropy(other) - entropy(one * 100_000 + other)
    return total / codes.shape[1]


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the covariance's spectrum."""
    values = np.clip(np.linalg.eigvalsh(np.cov(features.T.astype(np.float64))), 1e-12, None)
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


_SPOKEN: dict[tuple[str, str], np.ndarray] = {}


def words() -> dict[tuple[str, str], np.ndarray]:
    """Synthetic words: (word, voice) -> samples at 16 kHz, without silence around them."""
    if not _SPOKEN:
        sys.path.insert(0, str(EXAMPLES / "demo"))
        from speech_synthesis import Synthesizer, Voice

        synthesizer = Synthesizer()
        for name in VOICES:
            pitch = 60 if "+f" in name else 35
            for word in " ".join(WORDS).split():
                wave = synthesizer.speak([word], [0], Voice(name, 90, pitch, 40), 1)
                heard = np.flatnonzero(np.abs(wave) > 0.01)
                _SPOKEN[word, name] = wave[max(0, heard[0] - 400) : heard[-1] + 800]
    return _SPOKEN


def abx(features: dict[tuple[str, str], np.ndarray]) -> float:
    """Share of wrong answers in per cent: a word by another voice must be closer to itself than to its neighbour."""
    centred = {key: rows[np.linspace(0, len(rows) - 1, PLACES).round().astype(int)] for key, rows in features.items()}
    mean = np.mean([row.mean(axis=0) for row in centred.values()], axis=0)
    unit = {key: (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True) for key, rows in centred.items()}
    wrong = total = 0
    for line in WORDS:
        for word, neighbour in permutations(line.split(), 2):
            for voice, other in permutations(VOICES, 2):
                x = unit[word, other]
                wrong += float((x * unit[word, voice]).sum()) <= float((x * unit[neighbour, voice]).sum())
                total += 1
    return 100 * wrong / total
