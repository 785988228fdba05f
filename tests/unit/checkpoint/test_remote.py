"""Checkpoints in a store: uploaded, kept, resumed from on an empty machine, and what happens when the store is away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from omegaconf import DictConfig

from fairseq import stores
from fairseq.checkpoint import fetching, io, remote, run, snapshot, store_index, transfer
from fairseq.checkpoint.saver import Saver
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import exit_status, launch, progress
from fairseq.distributed import utils as distributed
from fairseq.training.saves import Saves
from tests.unit.checkpoint.test_run import SmallTrainer, config, strategy_of, tensors_of, unbroken

STORE = "memory://runs/one"
RECORDS = {"metrics.jsonl", "run.jsonl"}  # of a run's records, which continue on another machine


class Away:
    """A store that can go away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away, self.calls = False, 0
        before = stores.retried

        def retried(call: Any, url: str, patience: float | None = None, *rest: Any, **options: Any) -> Any:
            def maybe() -> Any:
                self.calls += 1
                if self.is_away:
                    raise ConnectionError("nobody answers")
                return call()

            return before(maybe, url, 0, *rest, **options)

        monkeypatch.setattr(stores, "retried", retried)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fs: Any = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "store", {})  # all instances share it
    monkeypatch.setattr(type(fs), "pseudo_dirs", [""])
    return fs


@pytest.fixture
def away(memory: Any, monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(monkeypatch)


def begin(folder: Path, store: str = STORE, **checkpoint: Any) -> tuple[SmallTrainer, Saves]:
    """Start or resume a run that stages its checkpoints in a folder."""
    cfg = config(folder, store=store, **checkpoint)
    trainer: Any = SmallTrainer(cfg, strategy_of("whole", cfg), rows=2)
    trainer.is_between_updates, trainer.data_parallel_world_size = True, 1
    _, place = run.resume(cfg.checkpoint, trainer)
    return trainer, Saves(trainer, place)


def advance(trainer: SmallTrainer, saves: Saves, val_loss: float | None = None, updates: int = 1) -> None:
    trainer.train(updates)
    folder = Path(trainer.cfg.checkpoint.save_dir)
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"split": "train", "num_updates": trainer.get_num_updates()}) + "\n"
    )
    (folder / "run.jsonl").write_text('{"num_updates": 0}\n')
    saves.save(val_loss)


def names(memory: Any) -> set[str]:
    return {name.removeprefix("/runs/one/") for name in memory.store}


def updates_in_store(name: str) -> int:
    return io.peek(f"{STORE}/{name}").num_updates


# -- saving and resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("async_save", [False, True])
def test_a_run_continues_on_an_empty_machine(
    tmp_path: Path, memory: Any, async_save: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "cache"))
    keep = {"save_interval_updates": 1, "keep_interval_updates": 2, "async_save": async_save}
    trainer, saves = begin(tmp_path / "here", **keep)
    for val_loss in (1.0, None, 2.0):
        advance(trainer, saves, val_loss)
    assert saves.at_the_end() == 0
    kept = {"checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_1_2.pt", "checkpoint_1_3.pt"}
    assert names(memory) == {*kept, *RECORDS, store_index.NAME}
    assert {path.name for path in (tmp_path / "here").iterdir()} == {*kept, *RECORDS}
    assert [updates_in_store(f"checkpoint_{name}.pt") for name in ("last", "best", "1_2")] == [3, 1, 2]

    trainer, saves = begin(tmp_path / "elsewhere", **keep)
    assert trainer.get_num_updates() == 3 and trainer.run_record.best == 1.0
    assert all(torch.equal(*pair) for pair in zip(tensors_of(trainer.state.collect()), unbroken(3), strict=True))
    assert json.loads((tmp_path / "elsewhere" / "metrics.jsonl").read_text())["num_updates"] == 3
    assert (tmp_path / "elsewhere" / "run.jsonl").read_text() == '{"num_updates": 0}\n'
    advance(trainer, saves, 0.5)
    saves.finish()
    # retention in the store counts checkpoints that this machine never had
    assert names(memory) == {*(kept - {"checkpoint_1_2.pt"}), "checkpoint_1_4.pt", *RECORDS, store_index.NAME}
    assert updates_in_store("checkpoint_best.pt") == 4

    # back on the first machine, whose files are older
    trainer, _ = begin(tmp_path / "here", **keep)
    assert trainer.get_num_updates() == 4 and io.peek(tmp_path / "here" / "checkpoint_best.pt").num_updates == 4


def test_what_the_doctor_keeps_is_uploaded_with_the_next_save(tmp_path: Path, memory: Any) -> None:
    trainer, saves = begin(tmp_path, save_interval_updates=1, keep_interval_updates=1)
    advance(trainer, saves)
    assert "kept" in snapshot.keep_before(trainer.cfg.checkpoint, 2)
    advance(trainer, saves, updates=2)
    assert saves.at_the_end() == 0
    kept = f"{snapshot.NAME}.pt"
    assert kept in names(memory) and "checkpoint_1_1.pt" not in names(memory)
    assert updates_in_store(kept) == 1
    begin(tmp_path)  # resumes from the newest, not from the kept one
    assert updates_in_store("checkpoint_last.pt") == 3


def test_an_older_checkpoint_of_the_store_can_be_named(tmp_path: Path, memory: Any) -> None:
    trainer, saves = begin(tmp_path / "here", save_interval_updates=1)
    for _ in range(3):
        advance(trainer, saves)
    trainer, _ = begin(tmp_path / "elsewhere", restore_file="checkpoint_1_2.pt", save_interval_updates=1)
    assert trainer.get_num_updates() == 2


def test_the_best_are_kept_over_machines(tmp_path: Path, memory: Any) -> None:
    keep = {"keep_best_checkpoints": 2}
    for folder, val_losses in (("a", (3.0, 1.0)), ("b", (4.0, 2.0))):
        trainer, saves = begin(tmp_path / folder, **keep)
        for val_loss in val_losses:
            advance(trainer, saves, val_loss)
    best = sorted(name for name in names(memory) if ".best_" in name)
    assert [name[: len("checkpoint.best_loss_1.000")] for name in best] == [
        "checkpoint.best_loss_1.000",
        "checkpoint.best_loss_2.000",
    ]


def test_an_older_save_in_the_other_form_is_removed(tmp_path: Path, memory: Any) -> None:
    """Another strategy saved before, so that one of the two forms of checkpoint_best would be of an older update."""
    trainer, saves = begin(tmp_path)
    advance(trainer, saves, val_loss=2.0)
    index = store_index.read(STORE)
    for name in ("checkpoint_best.shards", "checkpoint_last.shards"):
        (tmp_path / name).mkdir()
        index.entries[name] = store_index.Entry("checkpoint.1-0a.shards", 1, {})
    memory.pipe_file("/runs/one/checkpoint.1-0a.shards/.metadata", b"x")
    store_index.write(STORE, index)
    trainer, saves = begin(tmp_path)
    advance(trainer, saves, val_loss=3.0)
    assert {path.name for path in tmp_path.glob("*.shards")} == {"checkpoint_best.shards"}
    assert "checkpoint_last.shards" not in store_index.read(STORE).entries
    advance(trainer, saves, val_loss=1.0)
    assert not list(tmp_path.glob("*.shards"))
    assert names(memory) == {"checkpoint_last.pt", "checkpoint_best.pt", *RECORDS, store_index.NAME}


def test_a_damaged_last_checkpoint_is_skipped(tmp_path: Path, memory: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer, saves = begin(tmp_path / "here", save_interval_updates=1)
    advance(trainer, saves)
    advance(trainer, saves)
    memory.pipe_file("/runs/one/checkpoint_last.pt", memory.cat_file("/runs/one/checkpoint_last.pt")[:-100])
    trainer, _ = begin(tmp_path / "elsewhere", save_interval_updates=1)
    assert trainer.get_num_updates() == 2
    assert f"{STORE}/checkpoint_last.pt is damaged" in caplog.text
    for name in list(memory.store):
        if name.endswith(".pt"):
            memory.pipe_file(name, b"no checkpoint")
    with pytest.raises(ValueError, match="holds only damaged checkpoints"):
        begin(tmp_path / "third", save_interval_updates=1)


def test_an_object_that_is_newer_than_the_list_is_used(tmp_path: Path, memory: Any) -> None:
    """After a kill between the upload and the list; and without the list, as after a copy by hand."""
    trainer, saves = begin(tmp_path / "here")
    advance(trainer, saves)
    old = memory.cat_file(f"/runs/one/{store_index.NAME}")
    advance(trainer, saves)
    for number, list_of_before in enumerate((old, b"{", None)):
        if list_of_before is None:
            memory.rm(f"/runs/one/{store_index.NAME}")
        else:
            memory.pipe_file(f"/runs/one/{store_index.NAME}", list_of_before)
        trainer, _ = begin(tmp_path / str(number), no_save=True)
        assert trainer.get_num_updates() == 2


def test_the_newer_of_store_and_folder_is_used_and_uploaded(
    tmp_path: Path, away: Away, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "cache"))
    trainer, saves = begin(tmp_path / "here")
    advance(trainer, saves)
    away.is_away = True
    advance(trainer, saves)
    away.is_away = False
    assert updates_in_store("checkpoint_last.pt") == 1
    trainer, _ = begin(tmp_path / "here")
    assert trainer.get_num_updates() == 2 and updates_in_store("checkpoint_last.pt") == 2


# -- a store that is away ----------------------------------------------------------------------------------------------


def test_training_goes_on_without_the_store(
    tmp_path: Path, away: Away, memory: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "cache"))
    trainer, saves = begin(tmp_path, save_interval_updates=1)
    advance(trainer, saves, 1.0)
    away.is_away = True
    for _ in range(2):
        advance(trainer, saves, 2.0)
    assert caplog.text.count("Training continues, and the next save uploads it.") == 2
    assert f"{tmp_path}/checkpoint_last.pt, {tmp_path}/checkpoint_1_3.pt could not be uploaded: {STORE}/" in caplog.text
    assert "nobody answers" in caplog.text and updates_in_fallback(memory) == 1
    assert saves.at_the_end() == exit_status.UNSAVED
    assert f"training finished at update 3, but {tmp_path}/" in caplog.text
    saves.save(None, stopping=True)
    assert saves.after_signal("SIGTERM") == exit_status.UNSAVED
    assert "stopped by SIGTERM at update 3; saved here only:" in caplog.text
    away.is_away = False
    assert saves.at_the_end() == 0
    assert {f"checkpoint_1_{update}.pt" for update in (1, 2, 3)} < names(memory)
    assert updates_in_store("checkpoint_last.pt") == 3 and saves.after_signal("SIGTERM") == exit_status.STOPPED


def updates_in_fallback(memory: Any) -> int:
    return json.loads(memory.cat_file(f"/runs/one/{store_index.NAME}"))["checkpoints"]["checkpoint_last.pt"]["updates"]


def test_the_watchdog_hears_of_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "EVERY", 0.01)
    loop = progress.start_over()
    for phase, beats in (("forward", False), ("saving", True)):
        loop.doing(phase)
        before = loop.beats
        with remote.beating():
            deadline = time.monotonic() + 5
            while loop.beats == before and time.monotonic() < (deadline if beats else deadline - 4.9):
                time.sleep(0.01)
        assert (loop.beats > before) is beats


def test_another_run_in_the_same_store_ends_the_uploads(
    tmp_path: Path, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, saves = begin(tmp_path / "first")
    advance(first, saves)
    second, others = begin(tmp_path / "second")
    advance(second, others)
    advance(first, saves)
    assert f"another run has written to {STORE} since this run started" in caplog.text
    assert saves.at_the_end() == exit_status.UNSAVED and others.at_the_end() == 0


def test_a_body_cut_short_is_sent_and_fetched_again(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.01)
    file, cut = tmp_path / "file", [True]
    file.write_bytes(bytes(range(256)) * 100)
    put, get = type(memory).put_file, type(memory).get_file

    def half_put(self: Any, path: str, target: str, **options: Any) -> None:
        put(self, path, target, **options)
        if cut:
            cut.pop()
            self.pipe_file(target, file.read_bytes()[:-1] + b"x")  # same size, other content

    def half_get(self: Any, source: str, target: str, **options: Any) -> None:
        get(self, source, target, **options)
        if cut:
            cut.pop()
            os.truncate(target, 1000)

    monkeypatch.setattr(type(memory), "put_file", half_put)
    monkeypatch.setattr(type(memory), "get_file", half_get)
    digest = transfer.digest(str(file))
    transfer.send(str(file), "memory://x/file", digest)
    assert memory.cat_file("/x/file") == file.read_bytes() and not cut
    cut.append(True)
    transfer.receive("memory://x/file", str(tmp_path / "back"), digest)
    assert (tmp_path / "back").read_bytes() == file.read_bytes() and not cut
    with pytest.raises(stores.StoreError, match=r"memory://x/file: the download has 25,600 bytes and MD5"):
        transfer.receive("memory://x/file", str(tmp_path / "back"), transfer.Digest(25600, "0"), patience=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "file"]


# -- several processes -------------------------------------------------------------------------------------------------


def each_on_its_own_machine(cfg: DictConfig, name: str) -> None:
    """Save together in one folder; then each process resumes in a folder of its own."""
    rows = 1 if name == "rows" else 2
    first = SmallTrainer(cfg, strategy_of(name, cfg), rows)
    _, place = run.resume(cfg.checkpoint, first)
    first.train(2)
    saver = Saver(cfg.checkpoint, first)
    for val_loss in (2.0, 1.0):
        saver.begin(place, val_loss)
        saver.finish()
        first.train(1)
    saver.consolidate_the_end()
    problem = saver.send_rest()
    distributed.barrier()
    folder, cfg.checkpoint.save_dir = cfg.checkpoint.save_dir, "run"
    os.makedirs(machine := os.path.join(folder, f"machine{distributed.get_rank()}", "run"))
    os.chdir(os.path.dirname(machine))
    second = SmallTrainer(cfg, strategy_of(name, cfg), rows)
    run.resume(cfg.checkpoint, second)
    found = {
        "updates": second.get_num_updates(),
        "problem": problem,
        "names": sorted(os.listdir(machine)),
    }
    Path(folder, f"{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.barrier()


@pytest.mark.process
@pytest.mark.parametrize("name", ["whole", "rows"])
def test_machines_without_a_common_folder_resume(tmp_path: Path, name: str) -> None:
    store = f"file://{tmp_path}/store"
    cfg = config(tmp_path, processes=2, store=store, async_save=name == "rows")
    launch.call_main(cfg, each_on_its_own_machine, name=name)
    last = "checkpoint_last.shards" if name == "rows" else "checkpoint_last.pt"
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (found["updates"], found["problem"]) == (3, None) and last in found["names"]
    there = set(os.listdir(tmp_path / "store"))
    if name == "whole":
        assert there == {"checkpoint_last.pt", "checkpoint_best.pt", store_index.NAME}
        return
    entries = store_index.read(store).entries
    assert entries["checkpoint_last.shards"].object == entries["checkpoint_best.shards"].object
    assert there == {
        entries["checkpoint_last.shards"].object,
        "checkpoint_last.pt",
        "checkpoint_best.pt",
        store_index.NAME,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fetching.CACHE, str(tmp_path / "cache"))
        assert io.verify(f"{store}/checkpoint_last.shards") is None
        io.consolidate(f"{store}/checkpoint_last.shards", tmp_path / "whole.pt")
    assert io.peek(tmp_path / "whole.pt").num_updates == 3


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_url_as_save_dir_sets_store_and_folder() -> None:
    cfg = CheckpointConfig(save_dir="s3://bucket/a/../b/")
    remote.stage(cfg)
    assert (cfg.save_dir, cfg.store) == ("checkpoints/s3/bucket/a/b", "s3://bucket/a/../b")
    remote.stage(cfg)
    assert cfg.save_dir == "checkpoints/s3/bucket/a/b"
    plain = CheckpointConfig(save_dir="checkpoints")
    remote.stage(plain)
    assert (plain.save_dir, plain.store) == ("checkpoints", None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"store": "folder"}, "checkpoint.store is 'folder': it must be a URL, such as s3://bucket/folder."),
        ({"store": "s3://a/b", "save_dir": "s3://a/c"}, "checkpoint.store is set too. Set only one of them"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, Any], said: str) -> None:
    assert any(said in finding.text for finding in CheckpointConfig(**values).check())


def test_the_store_is_checked_before_training(memory: Any, away: Away) -> None:
    cfg = CheckpointConfig(store=STORE)
    remote.verify_store(cfg)
    assert names(memory) == set()
    away.is_away = True
    with pytest.raises(
        ValueError, match=r"checkpoint.store=memory://runs/one is not writable: memory://runs/one/.*Che"
    ):
        remote.verify_store(cfg)


def test_a_checkpoint_named_by_its_url_is_downloaded_once(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE, str(tmp_path / "cache"))
    trainer, saves = begin(tmp_path / "run")
    advance(trainer, saves)
    url = f"{STORE}/checkpoint_last.pt"
    first = fetching.local(url)
    stamp = os.stat(first).st_mtime_ns
    assert io.load(url)["optimizer_history"][-1]["num_updates"] == 1 and io.verify(url) is None
    assert os.stat(fetching.local(url)).st_mtime_ns == stamp
    advance(trainer, saves)
    assert io.peek(url).num_updates == 2 and not os.path.exists(first)
    with pytest.raises(FileNotFoundError, match=f"{STORE}/none.pt: the object or bucket does not exist"):
        io.load(f"{STORE}/none.pt")
    memory.pipe_file("/runs/one/text.pt", b"text")
    with pytest.raises(ValueError, match=f"{STORE}/text.pt is not a checkpoint"):
        io.load(f"{STORE}/text.pt")
    other, _ = begin(tmp_path / "other", store="memory://runs/two", finetune_from_model=url)
    assert other.get_num_updates() == 0
    assert other.run_record.started_from == url
    assert torch.equal(other.state.model.weight, trainer.state.model.weight)


def test_a_store_that_cannot_be_opened_is_named_with_its_key() -> None:
    cfg = CheckpointConfig(store="nosuch://bucket/run")
    with pytest.raises(ValueError, match=r"checkpoint\.store=nosuch://bucket/run cannot be opened: .*protocol"):
        remote.verify_store(cfg)
