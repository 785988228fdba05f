"""The demo's own steps around the training: manifests of a made corpus and of a user's folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile


@pytest.fixture
def run_demo(demo_dir: Path) -> ModuleType:
    return importlib.import_module("run_demo")


def record(path: Path, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).standard_normal(rate) * 0.1, rate)


def entries(manifest: Path) -> list[str]:
    return [line.split("\t")[0] for line in manifest.read_text().splitlines()[1:]]


def test_a_made_corpus_keeps_its_splits(run_demo: ModuleType, tmp_path: Path) -> None:
    for name in ("train/1/1/a.flac", "train/2/1/b.flac", "valid/3/1/c.flac"):
        record(tmp_path / "corpus" / name)
    run_demo.corpus_manifest(tmp_path / "corpus", tmp_path / "manifest")
    assert entries(tmp_path / "manifest" / "train.tsv") == ["1/1/a.flac", "2/1/b.flac"]
    assert entries(tmp_path / "manifest" / "valid.tsv") == ["3/1/c.flac"]
    assert (tmp_path / "manifest" / "valid.tsv").read_text().splitlines()[0].endswith("valid")


@pytest.mark.process
@pytest.mark.parametrize("count", [2, 3, 40])
def test_a_folder_is_split_even_if_small(run_demo: ModuleType, tmp_path: Path, count: int) -> None:
    for i in range(count):
        record(tmp_path / "data" / f"{i:02d}.{('wav', 'flac', 'ogg')[i % 3]}", rate=(8000, 16000, 44100)[i % 3])
    run_demo.folder_manifest(tmp_path / "data", tmp_path / "manifest")
    train, valid = entries(tmp_path / "manifest" / "train.tsv"), entries(tmp_path / "manifest" / "valid.tsv")
    assert train and valid and len(set(train) | set(valid)) == len(train) + len(valid) == count


@pytest.mark.process
def test_too_few_files_are_told(run_demo: ModuleType, tmp_path: Path) -> None:
    record(tmp_path / "data" / "only.wav")
    with pytest.raises(ValueError, match="1 readable audio files"):
        run_demo.folder_manifest(tmp_path / "data", tmp_path / "manifest")
    with pytest.raises(ValueError, match="does not exist"):
        run_demo.prepare(tmp_path / "absent", tmp_path / "output", run_demo.Steps(4))


@pytest.mark.process
def test_preparing_twice_keeps_the_first_manifest(run_demo: ModuleType, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        record(tmp_path / "data" / name)
    place = run_demo.prepare(tmp_path / "data", tmp_path / "output", run_demo.Steps(4))
    before = (place / "manifest" / "train.tsv").read_bytes()
    record(tmp_path / "data" / "c.wav")
    assert run_demo.prepare(tmp_path / "data", tmp_path / "output", run_demo.Steps(4)) == place
    assert (place / "manifest" / "train.tsv").read_bytes() == before
    record(tmp_path / "other" / "data" / "a.wav")
    record(tmp_path / "other" / "data" / "b.wav")
    assert run_demo.prepare(tmp_path / "other" / "data", tmp_path / "output", run_demo.Steps(4)) != place


def test_a_command_that_fails_is_told(run_demo: ModuleType) -> None:
    import sys

    with pytest.raises(SystemExit, match="exit code 3"):
        run_demo.run([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match="signal 9"):
        run_demo.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
