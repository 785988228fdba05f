"""Arrays that workers map instead of copying."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.data import mapped
from fairseq.data.audio import manifest_index
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.labels import Labels, join
from fairseq.data.mapped import Column, bytes_of, region_of, shared

COUNT = 60_000


def test_columns_of_any_size(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        for count, large in ((0, False), (3, False), (400, True)):
            column = Column(np.int64, folder)
            pieces = [np.arange(1000) + 1000 * number for number in range(count)]
            for piece in pieces:
                column.append(piece[::-1])
            expected = np.concatenate([np.zeros(0, dtype=np.int64), *(piece[::-1] for piece in pieces)])
            assert np.array_equal(column.array(), expected) and column.size == len(expected)
            assert (region_of(column.array()) is not None) == large
            with open(tmp_path / "copy", "wb") as file:
                column.copy_to(file)
            assert (tmp_path / "copy").read_bytes() == expected.tobytes()
        assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_bytes_of_parts_of_arrays() -> None:
    text = np.arange(3_000_000, dtype=np.uint32).astype(np.uint8)
    for array in (text, shared(text), shared(text)[1234:]):
        assert bytes_of(array, 1_500_000, 1_500_007) == array[1_500_000:1_500_007].tobytes()


def test_small_arrays_are_not_copied() -> None:
    small, large = np.arange(10), np.arange(1 << 20)
    assert shared(small) is small
    copy = shared(large)
    assert shared(copy) is copy and np.array_equal(copy, large) and not copy.flags.writeable


def test_labels_are_mapped() -> None:
    labels = Labels.from_lines([[1, 2, 2], [3]] * 100_000)
    both = join([labels, labels])
    assert region_of(both.units) is not None and region_of(both.lengths) is not None
    assert (len(both), both[200_001].tolist(), both.frames_needed()[199_998:200_001].tolist()) == (
        400_000,
        [3],
        [4, 1, 4],
    )


def _look(dataset: FileAudioDataset, labels: Labels, plain: np.ndarray, end: Any) -> None:
    arrays = [dataset.sizes, dataset.lines, dataset.manifest.sizes, dataset.manifest.manifests[0]._text, labels.units]
    end.send(
        (
            [region_of(array) is not None for array in arrays],
            dataset.name(COUNT // 2 - 1),
            int(dataset.sizes[-1]),
            labels[COUNT - 1].tolist(),
            plain.tolist(),
        )
    )


@pytest.mark.process
@pytest.mark.parametrize("method, indexed", [("fork", True), ("spawn", True), ("spawn", False), ("forkserver", True)])
def test_workers_map_lines_and_labels(
    tmp_path: Path, method: str, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_index, "_LARGE", 1 << 10 if indexed else 1 << 40)
    monkeypatch.setattr(mapped, "_LARGE", 1 << 16)
    path = tmp_path / "train.tsv"
    path.write_text("/d\n" + "".join(f"{i}.flac\t{i % 2 * 10**6 + i}\n" for i in range(COUNT)))
    dataset = FileAudioDataset(str(path), 16000, min_sample_size=10**6)
    labels = Labels.from_lines([[i % 7] * 5 for i in range(COUNT)])
    labels.units = shared(labels.units)
    path.unlink()
    for index in tmp_path.glob("*.index"):
        index.unlink()  # a worker that starts now maps the same file
    context: Any = multiprocessing.get_context(method)
    own, other = context.Pipe()
    process = context.Process(target=_look, args=(dataset, labels, np.arange(3), other))
    process.start()
    is_mapped, name, size, label, plain = own.recv()
    process.join()
    assert is_mapped == [True] * 5
    assert (name, size) == (f"/d/{COUNT - 1}.flac", 10**6 + COUNT - 1)
    assert (label, plain) == ([(COUNT - 1) % 7] * 5, [0, 1, 2])
