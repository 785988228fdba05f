"""Segments: utterances that are a part of their file, in data sets of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.audio_utils import UnreadableAudio
from fairseq.data.audio.manifest import Manifest, Segment
from fairseq.data.audio.sizes import extents
from fairseq.data.batching import EVALUATION_EPOCH
from fairseq.data.labels import Labels
from fairseq.data.options import BatchLimits
from fairseq.inference.audio import open_source
from tests.unit.data.small_corpus import RATE, SIZES, make_dataset, open_manifest, write_corpus

LIMITS = BatchLimits(max_tokens=20_000)
LEAD = 700  # samples before the first utterance


def joined_copy(manifest: Path) -> Path:
    """The manifest's utterances as segments of two files, the first of which has a lead."""
    lines = Manifest(manifest)
    waves = [soundfile.read(lines.file(index), dtype="int16")[0] for index in range(len(lines))]
    folder = manifest.parent / "joined"
    folder.mkdir()
    rows, begin = [str(folder)], LEAD
    for number, wave in enumerate(waves):
        half = number // 10
        begin = 0 if number == 10 else begin
        rows.append(f"{half}.flac\t{len(wave)}\t{begin}")
        begin += len(wave)
    lead = np.full(LEAD, 12345, dtype=np.int16)
    soundfile.write(folder / "0.flac", np.concatenate([lead, *waves[:10]]), RATE)
    soundfile.write(folder / "1.flac", np.concatenate(waves[10:]), RATE)
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    return folder / "train.tsv"


@pytest.mark.parametrize("pad", [False, True])
def test_batches_are_those_of_separate_files(tmp_path: Path, pad: bool) -> None:
    manifest = write_corpus(tmp_path, SIZES)
    apart, segments = (make_dataset(path, pad=pad) for path in (manifest, joined_copy(manifest)))
    for epoch in (1, 2, EVALUATION_EPOCH):
        batches = apart.batches(epoch, LIMITS)
        others = segments.batches(epoch, LIMITS)
        assert len(batches) == len(others) > 1
        for number in range(len(batches)):
            batch, other = (
                dataset.collate_plan(plans.plan(number, epoch, number))
                for dataset, plans in ((apart, batches), (segments, others))
            )
            assert torch.equal(batch["net_input"]["source"], other["net_input"]["source"])
            assert torch.equal(batch["net_input"]["mask_indices"], other["net_input"]["mask_indices"])
            assert other["quarantined"] == [] and other["whole"] == batch["whole"]


def test_a_whole_segment_is_as_long_as_it_says(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, SIZES)
    apart, segments = open_manifest(manifest), open_manifest(joined_copy(manifest))
    for index in (0, 3, 12):
        assert torch.equal(apart[index]["source"], segments[index]["source"])
    assert segments.name(1) == f"{tmp_path}/joined/0.flac:{LEAD + SIZES[0]}-{LEAD + SIZES[0] + SIZES[1]}"


def test_a_segment_behind_the_end_is_replaced_and_named(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [3000, 3000])
    manifest.write_text(f"{tmp_path}\ntrain00.flac\t2000\t500\ntrain01.flac\t2000\t1500\n")
    dataset = make_dataset(manifest)
    batches = dataset.batches(EVALUATION_EPOCH, LIMITS)
    batch = dataset.collate_plan(batches.plan(0, EVALUATION_EPOCH, 0))
    (trouble,) = batch["quarantined"]
    assert trouble.name == f"{tmp_path}/train01.flac:1500-3500" and trouble.replaced
    assert trouble.reason == "it ends after 3000 frames, but 3500 are needed"
    with pytest.raises(ValueError, match="train01.flac:1500-3500 cannot be decoded: it ends after 3000"):
        dataset[1]


def test_a_segment_of_another_rate_is_a_part_of_the_converted_file(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    manifest = write_corpus(tmp_path, [8000, 8000], rate=8000)
    whole = open_manifest(manifest, resample=True)[0]["source"]
    manifest.write_text(f"{tmp_path}\ntrain00.flac\t3000\t1000\ntrain00.flac\t4000\t4000\ntrain00.flac\t5\t7999\n")
    dataset = open_manifest(manifest, resample=True)
    assert dataset.sizes.tolist() == [6000, 8000, 10]
    torch.testing.assert_close(dataset[0]["source"], whole[2000:8000])
    out = np.zeros(100, dtype=np.float32)
    dataset.read(1, 50, out)
    torch.testing.assert_close(torch.from_numpy(out), whole[8050:8150])
    with pytest.raises(UnreadableAudio):
        dataset.whole(2)


def test_rates_are_read_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.data.audio import sizes

    manifest = write_corpus(tmp_path, [4000, 4000], rate=8000)
    manifest.write_text(
        f"{tmp_path}\n"
        + "".join(f"train{i % 2:02d}.flac\t{100 + i}\t{10 * i}\n" for i in range(300))
        + "no.flac\t5\t3\n"
    )
    looked_at = []
    read = sizes.audio_format
    monkeypatch.setattr(sizes, "audio_format", lambda file: looked_at.append(file) or read(file))
    monkeypatch.setattr(sizes, "available_cores", lambda: 1)
    found = extents(Manifest(manifest), RATE)
    assert found.sizes.tolist() == [*(200 + 2 * i for i in range(300)), 5]
    assert found.starts is not None and found.starts.tolist() == [*(20 * i for i in range(300)), 3]
    assert len(looked_at) == 3


def test_inference_reads_the_segment_alone(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [4000])
    wave = soundfile.read(tmp_path / "train00.flac", dtype="float32")[0]
    source = open_source(Segment(str(tmp_path / "train00.flac"), 1000, 500), RATE)
    assert (source.num_samples, source.name) == (500, str(tmp_path / "train00.flac"))
    np.testing.assert_array_equal(source.read(100, 200), wave[1100:1300])
    with pytest.raises(ValueError, match="has 4,000 samples, but the manifest has a segment of it that ends at 4,001"):
        open_source(Segment(str(manifest.parent / "train00.flac"), 4000, 1), RATE)


def test_labels_of_segments(tmp_path: Path) -> None:
    manifest = joined_copy(write_corpus(tmp_path, SIZES))
    labels = Labels.from_lines([[5 + number] for number in range(len(SIZES))])
    dataset = AddTargetDataset(make_dataset(manifest, pad=True, max_sample_size=None, min_sample_size=3000), labels, 1)
    batches = dataset.batches(1, LIMITS)
    for number in range(len(batches)):
        batch = dataset.collate_plan(batches.plan(number, 1, number))
        for row, index in enumerate(batch["id"].tolist()):
            line = dataset.dataset.selection.line(index)
            assert batch["target"][row].tolist() == [5 + line]
            assert round(float(batch["net_input"]["source"][row][0]) * 2**15) // 1000 == line
