"""Data sets: what an epoch holds, and what a batch holds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.data.batching import EVALUATION_EPOCH, Batches
from fairseq.data.options import BatchLimits
from fairseq.frames import frames_for_samples
from fairseq.masks.spans import max_masked_frames
from tests.unit.data.small_corpus import LAYERS, RATE, SIZES, make_dataset, make_masks, tell_tale, write_corpus

LIMITS = BatchLimits(max_tokens=20_000)


def file_and_start(samples: np.ndarray) -> tuple[int, int]:
    """Which file a crop comes from, and about where it begins (to 100 samples)."""
    value = round(float(samples[0]) * 2**15)
    return value // 1000, value % 1000 * 100


def all_batches(dataset: FileAudioDataset, epoch: int, limits: BatchLimits = LIMITS) -> list[dict]:
    batches = dataset.batches(epoch, limits)
    return [dataset.collate_plan(batches.plan(i, epoch, i)) for i in range(len(batches))]


def listing(batches: Batches) -> list:
    return [batches.indices.tolist(), batches.ends.tolist(), batches.lengths.tolist()]


# -- an epoch ----------------------------------------------------------------------------------------------------------


def test_sizes_are_filtered_and_counted(manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dataset = FileAudioDataset(str(manifest), RATE, max_sample_size=5000, min_sample_size=3000)
    expected = [i for i, size in enumerate(SIZES) if size >= 3000]
    assert f"loaded {len(expected)}, skipped {20 - len(expected)} samples" in caplog.text
    assert dataset.skipped_indices == set(range(20)) - set(expected)
    assert dataset.name(0).endswith(f"train{expected[0]:02d}.flac")
    assert (dataset.size(len(dataset) - 1), dataset.num_tokens(4)) == (3500, min(SIZES[expected[4]], 5000))


def test_order_is_random_among_utterances_of_one_length_only(manifest: Path) -> None:
    dataset = make_dataset(manifest)
    lengths = np.minimum(SIZES, 5000)
    orders = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        orders.append(dataset.ordered_indices().tolist())
        assert sorted(orders[-1]) == list(range(20))
        assert (np.diff(lengths[orders[-1]]) <= 0).all()
    assert orders[0] == orders[2] != orders[1]
    assert make_dataset(manifest, shuffle=False).ordered_indices().tolist() == list(range(20))


def test_batches_are_a_function_of_seed_and_epoch(manifest: Path) -> None:
    first, again, other = make_dataset(manifest, seed=3), make_dataset(manifest, seed=3), make_dataset(manifest, seed=4)
    assert listing(first.batches(2, LIMITS)) == listing(again.batches(2, LIMITS))
    assert listing(first.batches(2, LIMITS)) != listing(other.batches(2, LIMITS))
    assert listing(first.batches(2, LIMITS)) != listing(first.batches(3, LIMITS))
    assert listing(first.batches(EVALUATION_EPOCH, LIMITS)) == listing(other.batches(EVALUATION_EPOCH, LIMITS))


def test_utterances_that_give_no_frame_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = make_dataset(write_corpus(tmp_path, [100, 2000, 3000]))
    assert sorted(dataset.batches(1, LIMITS).indices.tolist()) == [1, 2]
    assert "shorter than the model's receptive field of 105 samples: 1" in caplog.text


def test_subsample_keeps_a_share(manifest: Path) -> None:
    chosen = [make_dataset(manifest, subsample=0.3, seed=seed) for seed in (1, 1, 2)]
    names = [[dataset.name(i) for i in range(len(dataset))] for dataset in chosen]
    assert len(names[0]) == 6 and names[0] == names[1] != names[2] and names[0] == sorted(names[0])


def test_weighted_corpora(tmp_path: Path) -> None:
    big = Manifest(write_corpus(tmp_path / "a", [3000] * 12, "big"))
    small = Manifest(write_corpus(tmp_path / "b", [3000] * 4, "small"))
    dataset = FileAudioDataset(JoinedManifest([big, small]), RATE, options=ManifestOptions(weights=[0.25, 0.75]))
    drawn = dataset.sample(1)
    assert len(drawn) == 16 and len(set(drawn.tolist())) == 16  # copies are told apart
    utterances, times = np.unique(drawn % 16, return_counts=True)
    assert (utterances < 12).sum() == 4 and times[utterances >= 12].tolist() == [3, 3, 3, 3]
    assert sorted(dataset.sample(EVALUATION_EPOCH).tolist()) == list(range(16))
    assert set(dataset.sample(2).tolist()) != set(drawn.tolist())
    dataset.set_masks(make_masks())
    batches = dataset.batches(1, BatchLimits(12_000))
    made = [dataset.collate_plan(batches.plan(i, 1, 0)) for i in range(len(batches))]
    copies = {}
    for sample in made:
        for index, mask in zip(sample["id"].tolist(), sample["net_input"]["mask_indices"], strict=True):
            copies.setdefault(index, set()).add(tuple(mask.tolist()))
    assert max(copies) < 16
    assert all(len(masks) == 3 for index, masks in copies.items() if index >= 12)


# -- a batch -----------------------------------------------------------------------------------------------------------


def test_cropped_batch(manifest: Path) -> None:
    seen = []
    for sample in all_batches(make_dataset(manifest), 1):
        source = sample["net_input"]["source"]
        ids = sample["id"].tolist()
        assert source.shape[1] == min(min(SIZES[i] for i in ids), 5000)
        assert "padding_mask" not in sample["net_input"]
        assert sample["num_valid"] == len(ids) and sample["num_samples"] == source.numel()
        for index, row in zip(ids, source.numpy(), strict=True):
            file, start = file_and_start(row)
            assert file == index and start <= SIZES[index] - len(row)
            whole = tell_tale(index, SIZES[index])
            assert any(np.array_equal(row, whole[i : i + len(row)]) for i in range(start, start + 100))
        seen += ids
    assert sorted(seen) == list(range(20))


def test_crops_are_the_files_samples_and_reach_all_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.flac\t4000\n")
    audio = (rng.integers(-3000, 3000, 4000) / 2**15).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", audio, RATE, subtype="PCM_16")
    dataset = FileAudioDataset(str(tmp_path / "train.tsv"), RATE, max_sample_size=3990)
    starts = set()
    for epoch in range(1, 120):
        row = dataset.collate_plan(dataset.batches(epoch, BatchLimits(5000)).plan(0, epoch, 0))["net_input"]["source"][
            0
        ].numpy()
        start = next(i for i in range(11) if np.array_equal(audio[i : i + 3990], row))
        starts.add(start)
    assert starts == set(range(11))


def test_padded_batch(manifest: Path) -> None:
    for sample in all_batches(make_dataset(manifest, pad=True), 1):
        inputs = sample["net_input"]
        lengths = (~inputs["padding_mask"]).sum(dim=1).tolist()
        assert lengths == [min(SIZES[i], 5000) for i in sample["id"].tolist()]
        assert max(lengths) == inputs["source"].shape[1]
        assert sample["num_samples"] == sum(lengths)
        assert not inputs["source"][inputs["padding_mask"]].any()
        frames = frames_for_samples(torch.tensor(lengths), LAYERS)
        beyond = torch.arange(inputs["mask_indices"].shape[1]) >= frames[:, None]
        assert not inputs["mask_indices"][beyond].any(), "padding is masked"


def test_buckets_give_few_shapes_and_filler_does_not_count(manifest: Path) -> None:
    dataset = make_dataset(manifest, pad=True, num_buckets=3)
    shapes, valid, filled = set(), [], 0
    for sample in all_batches(dataset, 1):
        inputs = sample["net_input"]
        shapes.add(tuple((name, *tensor.shape) for name, tensor in inputs.items()))
        num_valid = sample["num_valid"]
        valid += sample["id"][:num_valid].tolist()
        filled += len(sample["id"]) - num_valid
        assert (inputs["masked_weights"][num_valid:] == 0).all()
        assert (inputs["masked_weights"][:num_valid].sum(dim=1) >= 2).all()
        for row in range(num_valid, len(sample["id"])):
            assert torch.equal(inputs["source"][row], inputs["source"][0]) and sample["id"][row] == sample["id"][0]
        assert sample["num_samples"] == sum(min(SIZES[i], 5000) for i in sample["id"][:num_valid].tolist())
        assert sample["num_masked"] == inputs["mask_indices"][:num_valid].sum()
    assert len(shapes) <= 3 and filled > 0
    assert sorted(valid) == list(range(20))


def test_whole_filler_batch(manifest: Path) -> None:
    dataset = make_dataset(manifest)
    batches = dataset.batches(1, LIMITS)
    real, filler = dataset.collate_plan(batches.plan(0, 1, 0)), dataset.collate_plan(batches.plan(0, 1, 9, filler=True))
    assert {k: v.shape for k, v in real["net_input"].items()} == {k: v.shape for k, v in filler["net_input"].items()}
    assert (filler["num_valid"], filler["num_samples"], filler["few_masked"], filler["micro"]) == (0, 0, 0, 9)
    assert (filler["num_masked"], filler["num_frames"]) == (0, 0) and 0 < real["num_masked"] < real["num_frames"]
    assert (filler["net_input"]["masked_weights"] == 0).all()


def test_masks_in_static_form(manifest: Path) -> None:
    dataset = make_dataset(manifest)
    for sample in all_batches(dataset, 1):
        inputs = sample["net_input"]
        frames = int(frames_for_samples(inputs["source"].shape[1], LAYERS))
        assert inputs["mask_indices"].shape[1] == frames
        assert inputs["masked_positions"].shape[1] == max_masked_frames(frames, dataset.masks.time)
        for mask, positions, weights in zip(
            inputs["mask_indices"], inputs["masked_positions"], inputs["masked_weights"], strict=True
        ):
            assert positions[weights > 0].tolist() == mask.nonzero().flatten().tolist()
        assert (
            inputs["mask_channel_indices"].shape == (len(mask := inputs["mask_indices"]), 16)
            and mask.dtype == torch.bool
        )
        assert inputs["masked_positions"].dtype == torch.int64 and inputs["masked_weights"].dtype == torch.float32


def test_rows_with_fewer_than_two_masked_frames_are_counted(tmp_path: Path) -> None:
    dataset = make_dataset(write_corpus(tmp_path, [120, 3000]), pad=True)  # 120 samples: one frame
    (sample,) = all_batches(dataset, 1)
    assert sample["few_masked"] == 1
    short = sample["id"].tolist().index(0)
    assert (sample["net_input"]["masked_weights"][short] == 0).all()
    assert (sample["net_input"]["masked_weights"][1 - short] > 0).sum() >= 2


def rows_by_id(dataset: FileAudioDataset, epoch: int, limits: BatchLimits = LIMITS) -> dict[int, tuple]:
    found = {}
    for sample in all_batches(dataset, epoch, limits):
        inputs = sample["net_input"]
        for row, index in enumerate(sample["id"].tolist()):
            found[index] = tuple(
                inputs[name][row].tolist() for name in ("source", "mask_indices", "mask_channel_indices")
            )
    return found


def test_crops_and_masks_are_keyed_by_seed_epoch_and_utterance(manifest: Path) -> None:
    first = rows_by_id(make_dataset(manifest), 1)
    assert rows_by_id(make_dataset(manifest), 1) == first
    for other in (rows_by_id(make_dataset(manifest), 2), rows_by_id(make_dataset(manifest, seed=2), 1)):
        assert all(other[i][1] != first[i][1] for i in first)
        assert any(other[i][0] != first[i][0] for i in first)
    assert len({str(masks[2]) for masks in first.values()}) > 10


def test_padded_rows_do_not_depend_on_their_batch(manifest: Path) -> None:
    alone = rows_by_id(make_dataset(manifest, pad=True), 1, BatchLimits(20_000, 1))
    together = rows_by_id(make_dataset(manifest, pad=True), 1)
    for index, (source, mask, channels) in alone.items():
        assert together[index][0][: len(source)] == source
        assert together[index][1][: len(mask)] == mask and together[index][2] == channels


def test_evaluation_brings_negatives_and_is_always_the_same(manifest: Path) -> None:
    dataset = make_dataset(manifest)
    dataset.set_masks(make_masks(num_negatives=7))
    once, twice = (all_batches(dataset, EVALUATION_EPOCH) for _ in range(2))
    for sample, again in zip(once, twice, strict=True):
        inputs = sample["net_input"]
        negatives, weights = inputs["negative_indices"], inputs["masked_weights"]
        assert negatives.shape == (*weights.shape, 7)
        counts = weights.sum(dim=1).long()
        assert (negatives < counts[:, None, None]).all()
        own = torch.arange(weights.shape[1])[None, :, None]
        assert not ((negatives == own) & (weights[:, :, None] > 0)).any(), "a positive is its own negative"
        assert all(torch.equal(tensor, again["net_input"][name]) for name, tensor in inputs.items())
    assert "negative_indices" not in all_batches(dataset, 1)[0]["net_input"]


@pytest.mark.parametrize("pad", [False, True])
def test_normalize(manifest: Path, pad: bool) -> None:
    plain, normalized = (
        all_batches(make_dataset(manifest, normalize=normalize, pad=pad), 1) for normalize in (False, True)
    )
    for before, after in zip(plain, normalized, strict=True):
        for raw, row, index in zip(
            before["net_input"]["source"], after["net_input"]["source"], before["id"].tolist(), strict=True
        ):
            length = min(SIZES[index], len(row))
            expected = (raw[:length] - raw[:length].mean()) / (raw[:length].var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=1e-4)
            assert not row[length:].any()


# -- files that make trouble -------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.data.audio.quarantine._PAUSES", (0.0,))


@pytest.mark.parametrize("pad", [False, True])
def test_an_undecodable_file_is_replaced_by_one_of_similar_size(tmp_path: Path, quick: None, pad: bool) -> None:
    path = write_corpus(tmp_path, [3000, 3200, 4000, 4400, 6000])
    (tmp_path / "train02.flac").write_bytes(b"broken")
    dataset = make_dataset(path, pad=pad)
    made = all_batches(dataset, 1, BatchLimits(8000, 1)) + all_batches(dataset, 1, BatchLimits(8000, 1))
    assert sorted(i for sample in made for i in sample["id"].tolist()) == [0, 0, 1, 1, 3, 3, 3, 3, 4, 4]
    reported = [item for sample in made for item in sample["quarantined"]]
    assert [item[0] for item in reported] == [2, 2] and reported[0][1].endswith("train02.flac") and reported[0][2]
    (replaced, _) = [sample for sample in made if sample["quarantined"]]
    assert file_and_start(replaced["net_input"]["source"][0].numpy())[0] == 3
    assert replaced["net_input"]["source"].shape == (1, 4000)


def test_a_substitute_fills_a_crop_and_leaves_no_trace_of_the_broken_file(tmp_path: Path, quick: None) -> None:
    path = write_corpus(tmp_path, [1500, 4000])
    whole = (tmp_path / "train01.flac").read_bytes()
    (tmp_path / "train01.flac").write_bytes(whole[: len(whole) - 60])  # its last block cannot be decoded
    padded = all_batches(make_dataset(path, pad=True), 1)[0]
    assert padded["id"].tolist() == [0, 0]
    assert [(~mask).sum() for mask in padded["net_input"]["padding_mask"]] == [1500, 1500]
    assert not padded["net_input"]["source"][padded["net_input"]["padding_mask"]].any()
    with pytest.raises(ValueError, match=r"(?s)1 files in a row cannot be decoded.*train01"):
        all_batches(make_dataset(path), 1, BatchLimits(8000, 1))  # nothing else has 4000 samples


def test_a_file_shorter_than_its_manifest_says_is_quarantined(tmp_path: Path, quick: None) -> None:
    path = write_corpus(tmp_path, [3000, 3100])
    path.write_text(path.read_text().replace("\t3000", "\t3050"))
    made = all_batches(make_dataset(path, pad=True), 1)
    (item,) = [item for sample in made for item in sample["quarantined"]]
    assert item[0] == 0 and "ends after" in item[2]


def test_a_file_longer_than_its_manifest_says_is_used_and_reported(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [9000, 5000])
    path.write_text(path.read_text().replace("\t9000", "\t4500"))
    (made,) = all_batches(make_dataset(path, pad=True), 1)
    (item,) = made["quarantined"]
    assert item.name.endswith("train00.flac") and not item.replaced
    assert "has 9,000 samples, but the manifest says 4,500" in item.reason
    assert sorted(made["id"].tolist()) == [0, 1]


def test_a_file_with_nan_is_replaced_and_not_its_batch(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [3000, 3100, 3200])
    path.write_text(path.read_text().replace("train01.flac", "train01.wav"))
    wave = tell_tale(1, 3100)
    wave[1234] = np.nan
    soundfile.write(tmp_path / "train01.wav", wave, RATE, subtype="FLOAT")
    (made,) = all_batches(make_dataset(path, pad=True), 1)
    assert sorted(made["id"].tolist()) == [0, 2, 2] and np.isfinite(made["net_input"]["source"].numpy()).all()
    (item,) = made["quarantined"]
    assert item[0] == 1 and "NaN or infinity), the first at 0.08 s" in item[2] and item.replaced


def test_a_missing_root_is_one_error_without_waiting_for_file_after_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("fairseq.data.audio.quarantine.time.sleep", pauses.append)
    path = write_corpus(tmp_path / "audio", [3000 + i for i in range(40)])
    there = path.read_text()
    path.write_text(there.replace(str(tmp_path), "/nowhere"))
    with pytest.raises(
        ValueError, match=r"train\.tsv, line 1: the root '/nowhere/audio' is not a folder on this machine"
    ):
        all_batches(make_dataset(path, pad=True), 1)
    assert len(pauses) == 2
    path.write_text(there.replace("train", "gone/train"))  # the root is right, but its files are elsewhere
    pauses.clear()
    with pytest.raises(ValueError, match="(?s)40 files in a row cannot be decoded.*line 1"):
        all_batches(make_dataset(path, pad=True), 1)
    assert len(pauses) == 6


def test_names_that_are_not_utf8_are_read_and_printed(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [3000])
    (tmp_path / "train00.flac").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.flac"))
    path.write_bytes(path.read_bytes().replace(b"train00", b"caf\xe9"))
    dataset = make_dataset(path)
    assert all_batches(dataset, 1)[0]["quarantined"] == []
    assert dataset.name(0) == f"{tmp_path}/caf\\xe9.flac"


def test_when_nothing_can_be_read_the_disk_is_suspected(tmp_path: Path, quick: None) -> None:
    path = write_corpus(tmp_path, [3000, 3100, 3200])
    for file in tmp_path.glob("*.flac"):
        file.unlink()
    with pytest.raises(ValueError, match="(?s)3 files in a row cannot be decoded. Check that the disk"):
        all_batches(make_dataset(path, pad=True), 1)


def test_another_sample_rate_is_an_error_and_no_quarantine(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [3000], rate=8000)
    with pytest.raises(ValueError, match=r"train00\.flac has a sample rate of 8000"):
        all_batches(make_dataset(path), 1)


def test_resampled_sizes_count_in_the_target_rate(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    path = write_corpus(tmp_path, [3000, 2000], rate=8000)
    dataset = make_dataset(path, resample=True, min_sample_size=5000, max_sample_size=5500)
    assert dataset.sizes.tolist() == [6000]
    assert all_batches(dataset, 1)[0]["net_input"]["source"].shape == (1, 5500)


# -- by hand, as fairseq's tools do ------------------------------------------------------------------------------------


def test_items_and_collater(manifest: Path) -> None:
    dataset = make_dataset(manifest, max_sample_size=3000)
    batch = dataset.collater([dataset[0], dataset[2]])
    assert batch["id"].tolist() == [0, 2] and batch["net_input"]["source"].shape == (2, 2400)
    np.testing.assert_array_equal(dataset[2]["source"].numpy(), tell_tale(2, SIZES[2]))
    padded = make_dataset(manifest, pad=True, max_sample_size=3000)
    batch = padded.collater([padded[0], padded[2]])
    assert batch["net_input"]["source"].shape == (2, 3000) and batch["net_input"]["padding_mask"].sum(
        dim=1
    ).tolist() == [600, 0]
    assert dataset.collater([]) == {}
    bucketed = make_dataset(manifest, pad=True, max_sample_size=3000, num_buckets=2)
    assert bucketed.collater([bucketed[0]])["net_input"]["source"].shape[1] in bucketed.buckets.tolist()


def test_mask_settings_as_fairseqs_keywords(manifest: Path) -> None:
    settings = {
        "mask_length": 4,
        "mask_prob": 0.5,
        "mask_selection": "static",
        "mask_other": 0.0,
        "no_mask_overlap": False,
        "mask_min_space": 1,
        "mask_channel_length": 2,
        "mask_channel_prob": 0.0,
        "mask_channel_selection": "static",
        "mask_channel_other": 0.0,
        "no_mask_channel_overlap": False,
        "mask_channel_min_space": 1,
        "conv_feature_layers": "[(8,10,5)] + [(8,8,4), (8,4,4)]",
        "encoder_embed_dim": 16,
    }
    dataset = FileAudioDataset(str(manifest), sample_rate=RATE, compute_mask_indices=True, **settings)
    assert dataset.masks == make_masks(channel=None)


def test_buckets_need_padding(manifest: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.num_batch_buckets=3 requires task\.enable_padding=true"):
        FileAudioDataset(str(manifest), RATE, num_buckets=3)


def test_sizes_that_contradict_each_other(manifest: Path) -> None:
    with pytest.raises(ValueError, match="max_sample_size is 100"):
        FileAudioDataset(str(manifest), RATE, max_sample_size=100, min_sample_size=200)
