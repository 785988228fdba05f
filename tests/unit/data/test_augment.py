"""Training's changed recordings: lengths known beforehand, labels that still fit, evaluation untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.augment import Augmentation, check_augmentation, noise_spectrum, response, with_speed
from fairseq.data.batching import EVALUATION_EPOCH
from fairseq.data.labels import Labels
from fairseq.data.options import BatchLimits
from fairseq.frames import frames_for_samples
from fairseq.masks.settings import FinetuningMasks, MaskConfig
from tests.unit.data.small_corpus import LAYERS, RATE, SIZES, open_manifest, write_corpus

OFF = MaskConfig(0.0, 4, "static", 0, False, 1, 0)
MASKS = FinetuningMasks(OFF, OFF, num_channels=16, conv_layers=LAYERS)
ALL = Augmentation(1.5, 12.0, 10.0)


def tone(frequency: float, samples: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(samples) / RATE).astype(np.float32)


def loudest(wave: np.ndarray) -> float:
    """Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * RATE / len(wave))


def make(root: Path, augmentation: Augmentation | None, units: int | None = 3, **options: Any) -> AddTargetDataset:
    manifest = write_corpus(root, SIZES)
    audio = open_manifest(manifest, pad=True, augmentation=augmentation, **options)
    # None: the longer the recording, the more units
    lengths = [size // 300 if units is None else units for size in SIZES]
    labels = [[5 + (number + place) % 4 for place in range(length)] for number, length in enumerate(lengths)]
    dataset = AddTargetDataset(audio, Labels.from_lines(labels), pad=1)
    dataset.set_masks(MASKS)
    return dataset


def samples_of(dataset: AddTargetDataset, epoch: int) -> dict[int, torch.Tensor]:
    """Every utterance's row without its padding."""
    batches = dataset.batches(epoch, BatchLimits(20000))
    found = {}
    for number in range(len(batches)):
        sample = dataset.collate_plan(batches.plan(number, epoch, 0))
        for row, index in enumerate(sample["id"].tolist()):
            net_input = sample["net_input"]
            found[index] = net_input["source"][row][~net_input["padding_mask"][row]]
            assert sample["target_weights"][row] == (row < batches.plan(number, epoch, 0).num_valid)
            assert sample["input_lengths"][row] == frames_for_samples(len(found[index]), LAYERS)
    return found


def test_speed_moves_pitch_and_length_together() -> None:
    faster, slower = with_speed(tone(440), RATE * 4 // 5), with_speed(tone(440), RATE * 5 // 4)
    assert (len(faster), len(slower)) == (12800, 20000)
    assert loudest(faster) == pytest.approx(550, abs=2) and loudest(slower) == pytest.approx(352, abs=2)
    for length in (15999, 16001, 12345, 17777):
        assert len(with_speed(tone(100), length)) == length


def test_speeds_spread_evenly_and_repeat() -> None:
    sizes, indices = np.full(4000, 10000), np.arange(4000)
    lengths = Augmentation(speed=1.25).lengths(sizes, indices, 1, 1)
    assert lengths.min() >= 8000 and lengths.max() <= 12500 and lengths.min() < 8010 and lengths.max() > 12490
    assert abs(np.mean(lengths < 10000) - 0.5) < 0.03  # as often faster as slower
    again = Augmentation(speed=1.25).lengths(sizes[:10], indices[90:100], 1, 1)
    assert again.tolist() == lengths[90:100].tolist()  # whatever else is asked for
    assert (Augmentation(speed=1.25).lengths(sizes, indices, 1, 2) != lengths).mean() > 0.9
    assert (Augmentation(speed=1.25).lengths(sizes, indices, 2, 1) != lengths).mean() > 0.9


def test_response_is_smooth_and_in_its_range() -> None:
    frequencies = np.fft.rfftfreq(RATE, 1 / RATE)
    gains = np.array([-12.0, 12, 0, 6])
    factors = 20 * np.log10(response(frequencies, gains))
    assert factors[0] == pytest.approx(-12) and factors[-1] == pytest.approx(6)
    assert factors.min() >= -12 and factors.max() <= 12 and np.abs(np.diff(factors)).max() < 0.2


def test_equaliser_and_noise_are_as_loud_as_asked() -> None:
    wave = tone(440)
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(200):
        noisy = Augmentation(noise_db=10).apply(wave, RATE, RATE, rng)
        ratios.append(10 * np.log10(np.sum(wave**2) / np.sum((noisy - wave) ** 2)))
    assert 9.5 < min(ratios) < 12 and 37 < max(ratios) < 40.5
    gains = [20 * np.log10(np.abs(Augmentation(eq_db=6).apply(wave, RATE, RATE, rng)).max()) for _ in range(200)]
    assert -6.1 <= min(gains) < -3 and 3 < max(gains) <= 6.1
    assert Augmentation().apply(wave, RATE, RATE, rng) is wave
    spectrum = np.abs(noise_spectrum(8001, np.random.default_rng(3)))
    assert spectrum[:800].mean() >= 0.9 * spectrum[-800:].mean()


def test_training_is_changed_and_evaluation_is_not(tmp_path: Path) -> None:
    plain, changed = make(tmp_path, None), make(tmp_path, ALL)
    evaluated = samples_of(changed, EVALUATION_EPOCH)
    assert all(torch.equal(row, evaluated[index]) for index, row in samples_of(plain, EVALUATION_EPOCH).items())
    first, again, second = samples_of(changed, 1), samples_of(changed, 1), samples_of(changed, 2)
    assert sorted(first) == list(range(len(SIZES)))
    assert all(torch.equal(first[i], again[i]) for i in first)
    lengths = np.array([[len(epoch[i]) for i in range(len(SIZES))] for epoch in (first, second)])
    assert (lengths[0] != lengths[1]).mean() > 0.9
    assert (lengths >= np.array(SIZES) / 1.5 - 1).all() and (lengths <= np.array(SIZES) * 1.5 + 1).all()
    assert lengths[0].tolist() == changed.dataset.lengths(np.arange(len(SIZES)), 1).tolist()
    assert changed.total_samples(changed.batches(1, BatchLimits(20000)), 1) == lengths[0].sum()


def test_labels_fit_at_any_speed(tmp_path: Path) -> None:
    """The shortest utterances have hardly a frame more than their label has units: they must not become faster."""
    dataset = make(tmp_path, Augmentation(2.0), units=27)
    for epoch in range(1, 6):
        rows = samples_of(dataset, epoch)
        assert min(frames_for_samples(len(row), LAYERS) for row in rows.values()) >= 27


def test_buckets_keep_one_shape(tmp_path: Path) -> None:
    dataset = make(tmp_path, Augmentation(1.5), units=None, num_buckets=3)
    shapes: dict[int, set[tuple[int, ...]]] = {}
    members: dict[int, set[int]] = {}
    for epoch in (1, 2, 3):
        batches = dataset.batches(epoch, BatchLimits(20000))
        for number in range(len(batches)):
            plan = batches.plan(number, epoch, 0)
            sample = dataset.collate_plan(plan)
            shapes.setdefault(plan.bucket, set()).add((*sample["net_input"]["source"].shape, sample["target"].size(1)))
            members.setdefault(plan.bucket, set()).update(plan.indices[: plan.num_valid].tolist())
            assert sample["target_weights"].tolist() == [
                float(row < plan.num_valid) for row in range(len(plan.indices))
            ]
    assert len(shapes) == 3 and all(len(found) == 1 for found in shapes.values())
    assert sum(map(len, members.values())) > len(SIZES)  # some changed their bucket


def test_settings_are_checked() -> None:
    assert check_augmentation(Augmentation(1.25, 10, 15), "task.augment") == []
    found = check_augmentation(Augmentation(0.9, -1, 200), "task.augment")
    assert [text.split(" is ")[0] for text in found] == [
        "task.augment.speed",
        "task.augment.eq_db",
        "task.augment.noise_db",
    ]


def test_what_a_batch_cannot_hold_is_told_in_the_first_epoch(tmp_path: Path) -> None:
    """Whatever speed the longest utterance happens to have there: 6600 samples become 9900 at most."""
    dataset = make(tmp_path, Augmentation(1.5))
    for epoch in range(1, 6):
        with pytest.raises(ValueError, match="max_tokens is 9899, but the longest utterance has 9900 samples"):
            dataset.batches(epoch, BatchLimits(9899))
        assert len(dataset.batches(epoch, BatchLimits(9900)))
    assert len(dataset.batches(EVALUATION_EPOCH, BatchLimits(6600)))
