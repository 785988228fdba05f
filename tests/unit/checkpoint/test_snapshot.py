"""A checkpoint from before a divergence, kept as a link while the run removes its own names."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq.checkpoint import snapshot
from fairseq.dataclass.configs import CheckpointConfig


def config(folder: Path) -> CheckpointConfig:
    return CheckpointConfig(save_dir=str(folder))


def checkpoint(path: Path, updates: int, age: float) -> Path:
    torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}], "extra_state": {}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def updates_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


def test_the_newest_checkpoint_from_before_is_linked(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint_1_1000.pt", 1000, age=3)
    before = checkpoint(tmp_path / "checkpoint_last.pt", 1500, age=2)  # its name does not say its update
    checkpoint(tmp_path / "checkpoint_2_2000.pt", 2000, age=1)
    (tmp_path / "checkpoint_best.pt").write_bytes(b"damaged")
    said = snapshot.keep_before(config(tmp_path), 1600)
    kept = tmp_path / "checkpoint_before_divergence.pt"
    assert said == f"kept {before} (update 1,500), from before this began, as {kept}"
    assert os.path.samefile(before, kept)
    os.remove(before)
    assert updates_in(kept) == 1500


def test_there_are_two_at_most_and_a_thousand_updates_apart(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint_1_1000.pt", 1000, age=9)
    snapshot.keep_before(config(tmp_path), 1100)
    checkpoint(tmp_path / "checkpoint_2_1900.pt", 1900, age=8)
    assert (
        snapshot.keep_before(config(tmp_path), 1950) == "checkpoint_before_divergence.pt of an earlier warning is kept"
    )
    assert "as" in snapshot.keep_before(config(tmp_path), 2100)
    assert updates_in(tmp_path / "checkpoint_before_divergence_2.pt") == 1900
    checkpoint(tmp_path / "checkpoint_9_9000.pt", 9000, age=7)
    assert "are kept" in snapshot.keep_before(config(tmp_path), 9500)
    assert len(list(tmp_path.glob("checkpoint_before_divergence*"))) == 2


def test_a_folder_is_linked_file_by_file(tmp_path: Path) -> None:
    shards = tmp_path / "checkpoint_1_1000.shards"
    shards.mkdir()
    (shards / "0.distcp").write_bytes(b"part")
    snapshot.keep_before(config(tmp_path), 1100)
    kept = tmp_path / "checkpoint_before_divergence.shards" / "0.distcp"
    assert os.path.samefile(kept, shards / "0.distcp")


def test_what_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = snapshot.keep_before(config(tmp_path), 1100)
    assert said == f"{tmp_path} has no checkpoint from before update 1,100, when this began"
    checkpoint(tmp_path / "checkpoint_1_1000.pt", 1000, age=1)

    def no_links(path: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        assert "cannot keep" in (said := snapshot.keep_before(config(tmp_path), 1100)) and "Operation not" in said
    monkeypatch.setattr(snapshot.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    assert "but is not kept: only 0 MiB are free" in snapshot.keep_before(config(tmp_path), 1100)
    assert not list(tmp_path.glob("checkpoint_before_divergence*"))
