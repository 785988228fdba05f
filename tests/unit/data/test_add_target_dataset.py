"""Utterances with labels: targets, weights, static shapes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.batching import BatchPlan
from fairseq.data.labels import Labels
from fairseq.data.options import BatchLimits
from fairseq.frames import frames_for_samples
from fairseq.masks.settings import FinetuningMasks, MaskConfig
from tests.unit.data.small_corpus import LAYERS, SIZES, open_manifest, write_corpus

LABELS = [[5 + (number + place) % 4 for place in range(2 + number % 5)] for number in range(len(SIZES))]
MASKS = FinetuningMasks(
    MaskConfig(0.5, 4, "static", 0, False, 1, 2),
    MaskConfig(0.2, 2, "static", 0, False, 1, 0),
    num_channels=16,
    conv_layers=LAYERS,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_corpus(tmp_path, SIZES)


def make(manifest: Path, labels: list[list[int]] = LABELS, skip: bool = False, **options: Any) -> AddTargetDataset:
    audio = open_manifest(manifest, **{"pad": True, **options})
    return AddTargetDataset(audio, Labels.from_lines(labels), pad=1, skip_unusable=skip)


def test_rows_have_their_own_labels(manifest: Path) -> None:
    """Also where short utterances are left out: line n of the labels stays that of line n of the manifest."""
    dataset = make(manifest, min_sample_size=2600)
    dataset.set_masks(MASKS)
    kept = [number for number, size in enumerate(SIZES) if size >= 2600]
    assert len(dataset) == len(kept)
    batches = dataset.batches(1, BatchLimits(20000))
    seen = []
    for number in range(len(batches)):
        sample = dataset.collate_plan(batches.plan(number, 1, 0))
        for row, index in enumerate(sample["id"].tolist()):
            label, length = LABELS[kept[index]], int(sample["target_lengths"][row])
            assert sample["target"][row, :length].tolist() == label and (sample["target"][row, length:] == 1).all()
            assert sample["input_lengths"][row] == frames_for_samples(SIZES[kept[index]], LAYERS)
            seen.append(index)
        assert sample["target"].size(1) == sample["target_lengths"].max()
        assert sample["ntokens"] == sample["target_lengths"].sum() and (sample["target_weights"] == 1).all()
    assert sorted(seen) == list(range(len(kept)))
    assert dataset[3]["label"].tolist() == LABELS[kept[3]] and len(dataset[3]["source"]) == SIZES[kept[3]]
    by_hand = dataset.collater([dataset[0], dataset[3]])
    assert (
        by_hand["target"].tolist()[0][: len(LABELS[kept[0]])] == LABELS[kept[0]]
        and by_hand["ntokens"] == by_hand["target_lengths"].sum()
    )


def test_buckets_have_one_shape_each(manifest: Path) -> None:
    """Rows, samples and units of a bucket are the same in every batch and epoch; filler does not count."""
    dataset = make(manifest, num_buckets=3)
    shapes: dict[int, set[tuple[int, ...]]] = {}
    for epoch in (1, 2):
        batches = dataset.batches(epoch, BatchLimits(20000))
        counted = 0.0
        for number in range(len(batches)):
            plan = batches.plan(number, epoch, 0)
            sample = dataset.collate_plan(plan)
            shapes.setdefault(plan.bucket, set()).add((*sample["net_input"]["source"].shape, sample["target"].size(1)))
            assert sample["target_weights"].tolist() == [
                float(row < plan.num_valid) for row in range(len(plan.indices))
            ]
            counted += sample["target_weights"].sum().item()
        assert counted == len(SIZES)
    assert len(shapes) == 3 and all(len(found) == 1 for found in shapes.values())


def test_masks_in_training_only_and_keyed(manifest: Path) -> None:
    dataset = make(manifest)
    dataset.set_masks(MASKS)
    batches = dataset.batches(1, BatchLimits(20000))
    plan = batches.plan(0, 1, 0)
    one, again, later = (dataset.collate_plan(p)["net_input"] for p in (plan, plan, plan._replace(epoch=2)))
    assert one["mask_indices"].any() and one["mask_channel_indices"].shape == (len(plan.indices), 16)
    assert torch.equal(one["mask_indices"], again["mask_indices"]) and not torch.equal(
        one["mask_indices"], later["mask_indices"]
    )
    padded = torch.arange(one["mask_indices"].size(1)) >= dataset.collate_plan(plan)["input_lengths"].unsqueeze(1)
    assert not (one["mask_indices"] & padded).any()
    assert dataset.collate_plan(plan._replace(epoch=0))["net_input"].keys() == {"source", "padding_mask"}
    dataset.set_masks(MASKS._replace(time=None, channel=None))
    assert dataset.collate_plan(plan)["net_input"].keys() == {"source", "padding_mask"}


@pytest.mark.parametrize("labels", [LABELS, [[5, 6]] * len(SIZES)], ids=["audio and label too long", "audio too long"])
def test_a_stand_in_that_does_not_fit_counts_nothing(manifest: Path, labels: list[list[int]]) -> None:
    """The shortest utterance's file is broken: what stands in for it is longer than the row, whose label would be
    of more than is heard.
    """
    shortest = int(np.argmin(SIZES))
    (manifest.parent / f"train{shortest:02d}.flac").write_bytes(b"broken")
    dataset = make(manifest, labels)
    sample = dataset.collate_plan(BatchPlan(np.array([shortest]), 1, SIZES[shortest], 0, 1, 0))
    assert sample["quarantined"] and sample["target_weights"].tolist() == [0.0] and sample["ntokens"] == 0


def test_long_utterances_are_left_out_not_cropped(manifest: Path) -> None:
    dataset = make(manifest, max_sample_size=5000)
    assert len(dataset) == sum(size <= 5000 for size in SIZES) and dataset.sizes.max() <= 5000


def test_what_cannot_be_learned_is_told_or_left_out(manifest: Path) -> None:
    long = [*LABELS[:2], [5] * 40, *LABELS[3:]]  # 79 frames of 4000 samples, which make 47
    dataset = make(manifest, long)
    with pytest.raises(ValueError, match="the labels, line 3: 40 units need 79 frames"):
        dataset.set_masks(MASKS)
    with pytest.raises(ValueError, match="line 1: the label is empty"):
        make(manifest, [[], *LABELS[1:]])
    dataset = make(manifest, long, skip=True, num_buckets=2)
    dataset.set_masks(MASKS)
    assert len(dataset) == len(SIZES) - 1 and 2 not in dataset.dataset.lines
    assert dataset.label(2).tolist() == LABELS[3]
    assert dataset.longest_label(dataset.batches(1, BatchLimits(20000)).plan(0, 1, 0)) <= 6


def test_a_spawned_worker_gets_a_copy(manifest: Path) -> None:
    dataset = make(manifest)
    dataset.set_masks(MASKS)
    copied = pickle.loads(pickle.dumps(dataset))
    plan = dataset.batches(1, BatchLimits(20000)).plan(1, 1, 0)
    one, other = dataset.collate_plan(plan), copied.collate_plan(plan)
    assert torch.equal(one["target"], other["target"]) and torch.equal(
        one["net_input"]["mask_indices"], other["net_input"]["mask_indices"]
    )


def test_padding_is_needed(manifest: Path) -> None:
    with pytest.raises(ValueError, match="labels need padding"):
        make(manifest, pad=False)
