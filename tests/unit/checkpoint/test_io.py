"""Fault drills on checkpoint files: cut off, one bit flipped, a full disk, pickled objects; and what a sound file
is.
"""

from __future__ import annotations

import datetime
import errno
import os
import pickle
import random
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from fairseq.checkpoint import io


def state(updates=3, numbers=4000):
    return {
        "model": {"weight": torch.arange(numbers, dtype=torch.float32)},
        "optimizer_history": [{"num_updates": updates}],
        "extra_state": {"val_loss": 1.5, "note": ("tuple", [1, None])},
    }


@pytest.fixture
def path(tmp_path):
    return io.save(state(), tmp_path / "checkpoint_last.pt")


def test_a_saved_file_is_sound_and_plain(path, tmp_path):
    assert io.verify(path) is None
    loaded = torch.load(path, weights_only=True)
    assert (
        torch.equal(loaded["model"]["weight"], state()["model"]["weight"])
        and loaded["extra_state"] == state()["extra_state"]
    )
    assert io.load(path)["optimizer_history"] == [{"num_updates": 3}]
    assert io.peek(path)[:2] == (3, state()["extra_state"])
    assert os.listdir(tmp_path) == ["checkpoint_last.pt"]  # nothing temporary is left


def test_a_copy_is_another_file(path, tmp_path):
    other = io.copy(path, tmp_path / "checkpoint_best.pt")
    assert not os.path.samefile(path, other)
    os.truncate(path, 100)
    assert io.verify(other) is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, 0.9999])
def test_cut_off_files_are_found(path, share):
    os.truncate(path, int(share * os.path.getsize(path)))
    assert io.verify(path) is not None
    with pytest.raises(ValueError, match=r"checkpoint_last\.pt"):
        io.load(path)


def test_every_flipped_bit_is_found_or_harmless(path):
    """Bits of records, headers and directory alike: never another state, never another kind of exception."""
    sound = Path(path).read_bytes()
    generator = random.Random(0)
    data_start = sound.index(state()["model"]["weight"].numpy().tobytes())
    positions = [data_start, data_start + 15999, 0, 30, len(sound) - 1] + [
        generator.randrange(len(sound)) for _ in range(300)
    ]
    found = 0
    for position in positions:
        damaged = bytearray(sound)
        damaged[position] ^= 1 << generator.randrange(8)
        with open(path, "wb") as file:
            file.write(damaged)
        try:
            loaded = io.load(path)
        except ValueError as error:
            found += 1
            assert path in str(error)
        else:
            assert torch.equal(loaded["model"]["weight"], state()["model"]["weight"])
            assert (
                loaded["extra_state"] == state()["extra_state"]
                and loaded["optimizer_history"] == state()["optimizer_history"]
            )
    assert found > 200  # the weights are nine tenths of this file


def test_a_flipped_byte_of_the_weights_names_the_record(path):
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("data/0"))
    with open(path, "rb+") as file:
        content = file.read()
        file.seek(content.index(state()["model"]["weight"].numpy().tobytes()) + 8000)
        file.write(b"\xff")
    assert record in io.verify(path)


def test_full_disk_removes_the_temporary_file_and_keeps_the_old_one(path, tmp_path, monkeypatch):
    def full(obj, file, **options):
        file.write(b"x" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(io.CheckpointWriteError, match="No space left") as raised:
        io.save(state(updates=9), path)
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["checkpoint_last.pt"] and io.peek(path).num_updates == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_torch_reports_a_real_full_device(path, monkeypatch):
    """torch's own writer, on a device that takes no byte, raises what `save` catches."""
    real_open = open
    monkeypatch.setattr(
        "builtins.open", lambda name, *rest: real_open(*(("/dev/full", "wb") if ".tmp" in str(name) else (name, *rest)))
    )
    with pytest.raises(io.CheckpointWriteError, match="No space left"):
        io.save(state(updates=9), path)
    assert io.peek(path).num_updates == 3


@pytest.mark.parametrize("size", [10, 3000, 20_000, 39_000])
def test_a_disk_that_fills_within_a_file_is_an_error_of_the_disk(path, tmp_path, size):
    """torch's zip writer replaces the disk's error by a RuntimeError of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(
            io.CheckpointWriteError, match="cannot write .*checkpoint_last.pt: File too large"
        ) as raised:
            io.save(state(9, 10_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["checkpoint_last.pt"] and io.peek(path).num_updates == 3


def test_a_link_is_replaced_and_its_target_stays(path, tmp_path, caplog):
    other = tmp_path / "others.pt"
    os.replace(path, other)
    os.symlink(other, path)
    before = other.read_bytes()
    io.save(state(updates=9), path)
    assert not os.path.islink(path) and io.peek(path).num_updates == 9 and other.read_bytes() == before
    assert f"was a symbolic link to {other}" in caplog.text


def test_an_archive_whose_list_lost_entries_is_damaged(path):
    """The length of an entry's comment, grown, swallows all that follow; the checksums of the others are right."""
    data = bytearray(Path(path).read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
        entries = archive.namelist()
    weight = next(number for number, name in enumerate(entries) if "/data/" in name)
    place = start
    for _ in range(weight - 1):  # the entry before the first tensor's
        name, extra, comment = struct.unpack_from("<HHH", data, place + 28)
        place += 46 + name + extra + comment
    data[place + 33] ^= 0x40  # a comment of 16 KiB
    Path(path).write_bytes(data)
    assert io.verify(path) is not None


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty: its copy or download did not finish"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html>", "a web page.*Download it again"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b"\x02\0\0\0\0\0\0\0{}", "a safetensors file.*fairseq-convert"),
        (b"\x1f\x8b\x08\0rest", r"compressed \(gzip\)"),
        (b"RIFF\0\0\0\0WAVE", "an audio file"),
        (b'{"model": 1}', "text that begins with"),
    ],
)
def test_files_of_another_kind_are_told_by_what_they_are(tmp_path, content, message):
    path = tmp_path / "given.pt"
    path.write_bytes(content)
    for read in (io.load, io.read, io.peek):
        with pytest.raises(ValueError, match=rf"given\.pt is .*{message}"):
            read(path)
    assert io.verify(path) is not None


def test_what_is_not_a_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/nowhere/model.pt", tmp_path / "link.pt")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        io.load(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a folder, not a checkpoint"):
        io.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="symbolic link to /nowhere/model.pt, which does not exist"):
        io.load(tmp_path / "link.pt")


def test_bare_weights_lack_the_config(tmp_path):
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(30)}, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"bare\.pt holds only weights \(30 tensors\), without the config") as raised:
        io.load(tmp_path / "bare.pt")
    assert len(str(raised.value)) < 300


def test_our_own_mistake_is_no_disk_error(path):
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):  # the last from Python 3.14 on
        io.save({"model": lambda: 0}, path)
    assert io.peek(path).num_updates == 3 and os.listdir(os.path.dirname(path)) == ["checkpoint_last.pt"]


def test_pickled_objects_are_refused_by_name(tmp_path):
    for content, name in (
        ({"args": datetime.timedelta(1)}, "datetime.timedelta"),
        ({"file": zipfile.ZipInfo("x")}, "zipfile.ZipInfo"),
    ):
        path = tmp_path / "foreign.pt"
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"pickled objects of {name}"):
            io.load(path)
        torch.save(content, path, _use_new_zipfile_serialization=False)
        with pytest.raises(ValueError, match=f"pickled objects of {name}"):
            io.load(path)


def test_legacy_files_of_tensors_are_read(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(io.load(path)["model"]["weight"], state()["model"]["weight"])
    assert io.verify(path) is None and io.peek(path)[:2] == (3, state()["extra_state"])
    os.truncate(path, os.path.getsize(path) - 1)
    assert "truncated" in io.verify(path)


def test_other_things_are_no_checkpoints(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        io.load(tmp_path / "list.pt")
    torch.save({"model": {}, "extra_state": {"metrics": {"train": 3}}}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt is not a checkpoint: its entries"):
        io.load(tmp_path / "odd.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt"):
        io.load(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "entries",
    [{"cfg": "${"}, {"cfg": [1]}, {"cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": "text"}}}],
    ids=["text", "list", "w2v_args"],
)
def test_a_config_that_is_not_one_names_the_file(entries: dict, tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(1)}, **entries}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt is not a checkpoint: its entries .*a config must be a dict, not"):
        io.load(tmp_path / "odd.pt")


def test_newest_good(tmp_path):
    last = tmp_path / "checkpoint_last.pt"
    assert io.newest_good(tmp_path, last) == (None, [])
    for name, updates in (
        ("checkpoint_1_4.pt", 4),
        ("checkpoint_2_8.pt", 8),
        ("checkpoint_best.pt", 6),
        ("checkpoint_last.pt", 9),
    ):
        io.save(state(updates), tmp_path / name)
    assert io.newest_good(tmp_path, last) == (str(last), [])
    os.truncate(last, 500)
    os.truncate(tmp_path / "checkpoint_2_8.pt", 0)
    found, bad = io.newest_good(tmp_path, last)
    assert found == str(tmp_path / "checkpoint_best.pt")
    assert [os.path.basename(name) for name, _ in bad] == ["checkpoint_last.pt", "checkpoint_2_8.pt"]
    assert "truncated" in bad[0][1] and bad[1][1].startswith("it is empty")


def test_unfinished_files_are_removed(tmp_path):
    for name in ("checkpoint_last.pt.tmp", "checkpoint_1_4.pt.0a1b2c3d.tmp", "metrics.jsonl.tmp", "checkpoint_last.pt"):
        (tmp_path / name).write_text("")
    io.remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_last.pt", "metrics.jsonl.tmp"]
