"""Sharded checkpoints in one process: what is in the folder, damage, a kill at any moment, and both forms of a name.

tests/unit/checkpoint/test_run.py has two processes that each write a part.
"""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq import checkpoint_utils
from fairseq.checkpoint import atomic, io, sharded
from fairseq_cli import consolidate


def state_of(updates: int) -> dict[str, Any]:
    weight = torch.arange(12.0).view(3, 4) + updates
    return {
        "cfg": {"model": None},
        "model": OrderedDict({"b.weight": weight, "a": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)}),
        "optimizer_history": [{"num_updates": updates, "betas": (0.9, 0.98)}],
        "last_optimizer_state": {"state": {0: {"exp_avg": weight * 2, "step": 1}}, "param_groups": [{"params": [0]}]},
        "extra_state": {"ema": OrderedDict({"b.weight": weight * 3}), "tensors": [torch.ones(1), "text"]},
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return sharded.save(state_of(3), str(tmp_path / "checkpoint_last.shards"))


def test_the_whole_state_comes_back_in_its_order(folder: str, tmp_path: Path) -> None:
    assert equal(io.read(folder), state_of(3)) and io.verify(folder) is None
    assert io.peek(folder).num_updates == 3 and io.peek(folder).extra_state["ema"]["b.weight"].is_meta
    assert equal(checkpoint_utils.load_checkpoint_to_cpu(folder)["model"], dict(state_of(3)["model"]))
    assert sorted(os.listdir(folder)) == [".metadata", "__0_0.distcp", "checksums.json", "record.pt"]
    sharded.save(state_of(4), folder)  # replaces the folder
    assert io.peek(folder).num_updates == 4 and os.listdir(tmp_path) == ["checkpoint_last.shards"]
    assert io.verify(io.copy(folder, tmp_path / "checkpoint_best.shards")) is None


def test_tensors_are_read_when_they_are_asked_for(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    original = sharded.Stored.read
    monkeypatch.setattr(sharded.Stored, "read", lambda self, path: (read.append(self.size), original(self, path))[1])
    state = io.load(folder, on_demand=True)
    assert read == [(1,)]  # of the list, whose other entry is no tensor
    assert list(state["model"]) == ["b.weight", "a", "count"] and read == [(1,)]
    assert torch.equal(state["model"]["b.weight"], state_of(3)["model"]["b.weight"]) and read == [(1,), (3, 4)]
    assert state["last_optimizer_state"]["state"][0]["step"] == 1 and len(read) == 2
    assert {name: value.shape for name, value in state["extra_state"]["ema"].items()} == {"b.weight": (3, 4)}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_the_record_of_another(folder: Path) -> None:
    other = sharded.save({"model": {"x": torch.ones(1)}}, f"{folder}.other")
    shutil.copy(f"{other}/record.pt", folder)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda folder: flip(folder / "__0_0.distcp"),
    "a flipped bit of the metadata": lambda folder: flip(folder / ".metadata"),
    "a flipped bit of the record": lambda folder: flip(folder / "record.pt"),
    "a cut file": lambda folder: os.truncate(folder / "__0_0.distcp", 1000),
    "no tensors": lambda folder: (folder / "__0_0.distcp").unlink(),
    "no record": lambda folder: (folder / "record.pt").unlink(),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "no checksums": lambda folder: (folder / "checksums.json").unlink(),
    "cut checksums": lambda folder: os.truncate(folder / "checksums.json", 50),
    "checksums of other files": lambda folder: (folder / "checksums.json").write_text('{"../a": [1, 2]}'),
    "another record": with_the_record_of_another,
    "nothing": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_the_last_good_checkpoint_used(folder: str, tmp_path: Path, damage: str) -> None:
    older = sharded.save(state_of(2), str(tmp_path / "checkpoint_1_2.shards"))
    DAMAGE[damage](Path(folder))
    reason = io.verify(folder)
    assert reason is not None
    with pytest.raises(ValueError, match="checkpoint_last.shards"):
        io.load(folder)
    assert io.newest_good(tmp_path, tmp_path / "checkpoint_last.pt") == (older, [(folder, reason)])


def test_of_both_forms_of_a_name_the_newer_intact_one_is_taken(folder: str, tmp_path: Path) -> None:
    file = io.save(state_of(3), tmp_path / "checkpoint_last.pt")
    assert io.newest_good(tmp_path, file)[0] == folder  # the same updates: each process reads only what it needs
    for updates, wanted in ((4, file), (2, folder)):
        io.save(state_of(updates), file)
        assert io.newest_good(tmp_path, file)[0] == wanted
    flip(Path(folder, "record.pt"))
    found, bad = io.newest_good(tmp_path, file)
    assert found == file and [path for path, _ in bad] in ([folder], [])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["before the renames", "between the renames", "after the renames"])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    rename, calls = os.rename, []

    def dying_rename(source: str, target: str) -> None:
        nonlocal calls
        calls += [source] if os.path.isdir(source) else []  # torch renames a file
        if len(calls) == {"before the renames": 1, "between the renames": 2}.get(step):
            raise Killed
        rename(source, target)

    def no_remove(path: str) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying_rename)
        patch.setattr(atomic, "remove", no_remove)
        with pytest.raises(Killed):
            sharded.save(state_of(4), folder)
    assert len(os.listdir(tmp_path)) == 2
    io.remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint_last.shards"] and io.verify(folder) is None
    assert io.peek(folder).num_updates == (3 if step == "before the renames" else 4)


def test_an_unfinished_folder_is_removed_and_an_older_one_comes_back(folder: str, tmp_path: Path) -> None:
    os.rename(folder, f"{folder}.0123abcd.old.tmp")
    os.makedirs(f"{folder}.4567abcd.tmp")
    io.remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint_last.shards"] and io.verify(folder) is None


def test_the_command_writes_one_file(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "whole.pt"
    read, original = [], sharded.Stored.read

    def one_at_a_time(stored: sharded.Stored, path: str) -> Tensor:
        assert all(memory() is None for memory in read)
        tensor = original(stored, path)
        read.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(sharded.Stored, "read", one_at_a_time)
    assert consolidate.cli_main([folder, str(output)]) == 0 and f"written: {output}" in capsys.readouterr().out
    assert len(read) == 6 and io.verify(output) is None
    for state in (torch.load(output, weights_only=True), torch.load(output, mmap=True), io.read(output)):
        assert equal(state, state_of(3))
    assert consolidate.cli_main([str(output), str(tmp_path / "other.pt")]) == 1
    assert "is not the folder of a sharded checkpoint" in capsys.readouterr().err
    assert consolidate.cli_main([str(tmp_path / "gone.shards"), str(tmp_path / "other.pt")]) == 1
    assert "gone.shards does not exist" in capsys.readouterr().err
    flip(Path(folder, "__0_0.distcp"))
    monkeypatch.setattr(sharded.Stored, "read", original)
    assert consolidate.cli_main([folder, str(output)]) == 1
    assert "error: " in (said := capsys.readouterr().err) and "checkpoint_last.shards" in said
    assert io.verify(output) is None and not list(tmp_path.glob("*.tmp"))
    checksums = json.loads(Path(folder, "checksums.json").read_text())
    assert sorted(checksums) == [".metadata", "__0_0.distcp", "record.pt"]


def test_a_part_that_another_machine_wrote_elsewhere_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sharded._checksums

    def with_that_of_another(folder: str, beginning: str) -> dict[str, list[int]]:
        return {**own(folder, beginning), **({"__1_0.distcp": [1, 2]} if beginning == "__0_" else {})}

    monkeypatch.setattr(sharded, "_checksums", with_that_of_another)
    path = str(tmp_path / "checkpoint_last.shards")
    with pytest.raises(
        io.CheckpointWriteError, match="another process wrote __1_0.distcp, but not where rank 0 writes"
    ):
        sharded.save({"model": {"weight": torch.ones(2)}}, path)
    assert os.listdir(tmp_path) == []
