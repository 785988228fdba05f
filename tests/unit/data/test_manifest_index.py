"""Large manifests: the index beside them, what makes it invalid, and compressed ones."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.audio import manifest_index, manifest_lines
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.mapped import region_of

COUNT = 40_000
LINES = [f"shard-{i // 100:05d}.tar:{512 * i}:{i + 44}\t{16000 + i}\t{i}" for i in range(COUNT)]
TEXT = ("/data\r\n" + "\r\n".join(LINES) + "\r\n").encode()


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_index, "_LARGE", 1 << 18)
    monkeypatch.setattr(manifest_lines, "_BLOCK", 1 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "train.tsv").write_bytes(TEXT)
    return tmp_path / "train.tsv"


def content(manifest: Manifest) -> tuple:
    assert manifest.starts is not None
    some = [0, 1, 4711, COUNT - 1]
    return (
        manifest.root,
        len(manifest),
        manifest.sizes.tolist(),
        manifest.starts.tolist(),
        [manifest.name(i) for i in some],
        bytes(manifest.listing()),
        manifest.digest(),
        JoinedManifest([manifest]).digest(),
        JoinedManifest([manifest, manifest]).digest(),
        manifest.places(some),
    )


def is_parsed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    calls = []
    parse = manifest_index._parse
    with monkeypatch.context() as patch:
        patch.setattr(manifest_index, "_parse", lambda *args: calls.append(args) or parse(*args))
        Manifest(path)
    return len(calls) > 0


def test_an_index_says_what_the_manifest_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(manifest_index, "_LARGE", 1 << 30)
        plain = content(Manifest(path))
        assert not Path(f"{path}.index").exists()
    first = Manifest(path)
    assert content(first) == plain and Path(f"{path}.index").exists()
    assert sorted(os.listdir(path.parent)) == ["train.tsv", "train.tsv.index"]
    later = Manifest(path)
    assert content(later) == plain
    assert not is_parsed_again(path, monkeypatch)
    assert region_of(later.sizes) is not None and later.copied_bytes() == 0
    assert plain[9].startswith(f"line 2: shard-00000.tar:0:44:0-16000; line 3: {LINES[1].split()[0]}")


def test_a_changed_manifest_is_parsed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(path)
    status = path.stat()
    path.write_bytes(TEXT.replace(b"shard-00007", b"shard-x0007"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size and time
    assert manifest.name(700).startswith("shard-00007")  # a run that is on keeps what it read
    assert Manifest(path).name(700).startswith("shard-x0007")
    assert not is_parsed_again(path, monkeypatch)
    os.utime(path)
    assert is_parsed_again(path, monkeypatch)
    path.write_bytes(TEXT[: TEXT.index(b"shard-00200")])
    assert len(Manifest(path)) == 20_000


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "flip text", "flip number", "flip note", "cut note"])
def test_a_damaged_index_is_made_again(path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(Manifest(path))
    index = Path(f"{path}.index")
    data = bytearray(index.read_bytes())
    place = {"flip text": 1000, "flip number": len(TEXT) + 5000, "flip note": len(data) - 100}.get(damage)
    if place is not None:
        data[place] ^= 1
    kept = {"cut": len(data) // 2, "empty": 0, "cut note": 500}.get(damage, len(data))
    index.write_bytes(b"\n".join([b"x"] * 1000) if damage == "other" else data[:kept])
    assert is_parsed_again(path, monkeypatch)
    assert content(Manifest(path)) == expected and not is_parsed_again(path, monkeypatch)


@pytest.mark.parametrize("at", ["fairseq.data.mapped.nameless_file", "fairseq.data.audio.manifest_index._write"])
def test_a_folder_that_cannot_be_written(
    path: Path, at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import importlib

    module = importlib.import_module(at.rpartition(".")[0])
    name = at.rpartition(".")[2]
    original = getattr(module, name)

    def full(*args: object) -> object:
        if name == "nameless_file" and args == (None,):
            return original(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    with caplog.at_level(logging.INFO):
        manifest = Manifest(path)
    assert manifest.name(COUNT - 1) == LINES[-1].split("\t")[0]
    assert [record.message for record in caplog.records if record.message.startswith("cannot")] == [
        f"cannot write {path}.index (No space left on device): the lines are kept in memory, and every start reads the "
        "whole manifest"
    ]
    assert os.listdir(path.parent) == ["train.tsv"]
    assert region_of(manifest._text) is not None  # spawned workers map it all the same


def test_files_of_killed_processes_are_removed(path: Path) -> None:
    (path.parent / f"train.tsv.index.{socket.gethostname()}.12345.part").write_bytes(b"half")
    Manifest(path)
    assert sorted(os.listdir(path.parent)) == ["train.tsv", "train.tsv.index"]


def test_a_malformed_line_of_a_later_block_is_named(path: Path) -> None:
    path.write_bytes(TEXT + b"one\t1\n")
    with pytest.raises(ValueError, match=f"line {COUNT + 2}: number of columns: 2, but line 2 has 3"):
        Manifest(path)
    assert os.listdir(path.parent) == ["train.tsv"]


def test_compressed_manifests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(Manifest(path))
    Path(f"{path}.index").unlink()
    path.unlink()
    (path.parent / "train.tsv.gz").write_bytes(gzip.compress(TEXT, 1))
    manifest = Manifest(path)  # whose name is asked for as always
    assert manifest.path == f"{path}.gz" and content(manifest) == expected
    assert sorted(os.listdir(path.parent)) == ["train.tsv.gz", "train.tsv.gz.index"]
    assert not is_parsed_again(path, monkeypatch)
    assert content(Manifest(f"{path}.gz")) == expected
    path.write_bytes(b"/data\na.flac\t5\n")
    assert len(Manifest(path)) == 1  # the uncompressed one comes first


@pytest.mark.parametrize("damage", ["cut", "plain", "flip"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: str) -> None:
    data = bytearray(gzip.compress(TEXT[:10_000] + b"\n"))
    data[300] ^= 255 if damage == "flip" else 0
    (tmp_path / "train.tsv.gz").write_bytes(
        b"/d\na\t1\n" if damage == "plain" else data[: 500 if damage == "cut" else None]
    )
    with pytest.raises(ValueError, match=r"train\.tsv\.gz"):
        Manifest(tmp_path / "train.tsv")


def test_lines_of_many_blocks_are_those_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"/d\n" + b"".join(b"%da\t%d\n%s" % (i, i, b"\n" * (i % 3)) for i in range(500))
    (tmp_path / "train.tsv").write_bytes(text)
    found = []
    for block in (1, 7, 100, 1 << 20):
        monkeypatch.setattr(manifest_lines, "_BLOCK", block)
        manifest = Manifest(tmp_path / "train.tsv")
        found.append((manifest.sizes.tolist(), [manifest.name(i) for i in range(500)], manifest.places([250, 499])))
    assert all(each == found[0] for each in found)
    assert found[0][0] == list(range(500)) and found[0][1][7] == "7a"
    assert np.flatnonzero([line == b"250a\t250" for line in text.split(b"\n")])[0] + 1 == int(
        found[0][2].split()[1][:-1]
    )
