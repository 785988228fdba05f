"""Saving and continuing a run whose processes hold the whole model, and one whose processes hold a part each."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from fairseq import device, optim, utils
from fairseq.checkpoint import atomic, io, run
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.saver import Saver
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import exit_status, launch
from fairseq.distributed import utils as distributed
from fairseq.distributed.strategy import DataParallel, Strategy
from fairseq.optim import lr_scheduler
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.training.ema import EMA
from fairseq.training.precision import Precision
from fairseq.training.saves import Saves
from fairseq.training.state import TrainingState


class Rows:
    """Each process holds one row of every matrix: what a sharded strategy does, in the smallest form."""

    name = "rows"
    holds_all = False
    keeps_gradients = False
    needs_static_graph = True

    def place(self, model: nn.Module) -> nn.Module:
        return model

    def trained(self, model: nn.Module) -> list[Tensor]:
        return list(model.parameters())

    def reduce(self, params: Sequence[Tensor]) -> None:
        pass

    def optimizer_state(self, state: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return state

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return distributed.all_reduce(utils.total_norm(gradients) ** 2).sqrt()

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: self._part(tensor) for name, tensor in whole.items()}

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        entries = {
            number: {name: self._part(value) for name, value in entry.items()}
            for number, entry in whole["state"].items()
        }
        return {**whole, "state": entries}

    @staticmethod
    def _part(tensor: Any) -> Any:
        rank = distributed.get_rank()
        return tensor[rank : rank + 1] if isinstance(tensor, Tensor) and tensor.dim() == 2 else tensor


class Place:
    """An iterator's place in the data."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.done = epoch, 0

    def end_of_epoch(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]


class SmallTrainer:
    """One matrix, Adam, and a running average, in a real TrainingState."""

    def __init__(self, cfg: DictConfig, strategy: Strategy, rows: int) -> None:
        self.cfg, self.strategy, self.task, self.run_record = cfg, strategy, FairseqTask(None), RunRecord()
        self.is_data_parallel_master, self.device = distributed.is_master(), device.get("cpu")
        self.before_step: Callable[[], None] = lambda: None
        self.collected = 0
        model = nn.Linear(3, rows, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = optim.build_optimizer(cfg.optimizer, list(model.parameters()))
        schedule = lr_scheduler.build_lr_scheduler(cfg.lr_scheduler, optimizer)
        precision = Precision(cfg.common, device.get("cpu"), updates_per_window=1)
        average = EMA(model, cfg.ema)
        self.state = TrainingState(
            cfg, self.task, model, nn.Identity(), optimizer, schedule, precision, average, strategy
        )

    def train(self, updates: int) -> None:
        """Row r of the whole matrix gets gradients of r + 1."""
        first = 0 if self.strategy.holds_all else distributed.get_rank()
        weight = self.state.model.weight
        for _ in range(updates):
            weight.grad = torch.arange(1.0, 3.0)[first : first + len(weight), None].expand_as(weight).clone()
            self.before_step()
            self.state.optimizer.step()
            self.state.set_num_updates(self.state.num_updates + 1)
            self.state.ema.step(self.state.model, self.state.num_updates)

    def only_steps_change(self) -> Iterator[torch.Tensor]:
        return self.state.only_steps_change()

    def get_num_updates(self) -> int:
        return self.state.num_updates

    def get_train_iterator(self, epoch: int, load_dataset: bool = True) -> Any:
        return Place(epoch)

    def state_dict(self) -> dict[str, Any]:
        self.collected += 1
        state = self.state.collect()
        if self.strategy.holds_all:
            return state
        mesh = init_device_mesh("cpu", (2,))

        def as_part(tensor: Tensor) -> Tensor:
            return DTensor.from_local(tensor, mesh, [Shard(0)]) if tensor.dim() == 2 else tensor

        return utils.apply_to_sample(as_part, state)

    def load_state_dict(self, checkpoint: dict[str, Any], **reset: Any) -> dict[str, Any]:
        return self.state.restore(checkpoint, **reset)


def config(folder: Path | str, processes: int = 1, **checkpoint: Any) -> DictConfig:
    return resolve_config(
        {
            "common": {"cpu": True, "threads_per_process": 1},
            "checkpoint": {"save_dir": str(folder), **checkpoint},
            "distributed_training": {"distributed_world_size": processes},
            "optimization": {"lr": [0.1]},
            "optimizer": {"_name": "adam"},
            "lr_scheduler": {"_name": "fixed"},
            "ema": {"store_ema": True, "ema_decay": 0.5},
        }
    )


def tensors_of(state: dict[str, Any]) -> list[Tensor]:
    adam = state["last_optimizer_state"]["state"][0]
    return [state["model"]["weight"], adam["exp_avg"], adam["exp_avg_sq"], state["extra_state"]["ema"]["weight"]]


def unbroken(updates: int) -> list[Tensor]:
    """The same training in one process that never stopped."""
    cfg = config("nowhere")
    trainer = SmallTrainer(cfg, DataParallel(cfg.distributed_training, device.get("cpu")), rows=2)
    trainer.train(updates)
    return tensors_of(trainer.state.collect())


def strategy_of(name: str, cfg: DictConfig) -> Strategy:
    return Rows() if name == "rows" else DataParallel(cfg.distributed_training, device.get("cpu"))


def live_twice(cfg: DictConfig, name: str) -> None:
    """What each of two processes does: train, save twice (the second time nothing is due), continue, train on."""
    rows = 1 if name == "rows" else 2
    first = SmallTrainer(cfg, strategy_of(name, cfg), rows)
    _, place = run.resume(cfg.checkpoint, first)
    first.train(2)
    place.done = 2
    saver = Saver(cfg.checkpoint, first)
    saver.begin(place, val_loss=1.0)
    if name == "rows":  # async_save: the state of update 2 is written
        first.train(1)
        place.done = 3
    results = [saver.finish()]
    not_due = config(cfg.checkpoint.save_dir, no_last_checkpoints=True).checkpoint
    results.append(run.save(not_due, first, place, val_loss=None))
    distributed.barrier()  # the file is there
    second = SmallTrainer(cfg, strategy_of(name, cfg), rows)
    extra_state, place = run.resume(cfg.checkpoint, second)
    own = [tensor.tolist() for tensor in tensors_of(second.state.collect())]
    second.train(1)
    saver = Saver(cfg.checkpoint, second)
    saver.begin(place, val_loss=2.0)
    saver.finish()
    saver.consolidate_the_end()
    found = {
        "paths": [None if result is None else [os.path.basename(path) for path in result.paths] for result in results],
        "collected": first.collected,
        "own": own,
        "resumed": [second.run_record.best, extra_state["val_loss"], place.done, second.get_num_updates()],
    }
    if name == "rows":
        found["refused"] = save_on_a_full_disk(cfg, second, place)
    (Path(cfg.checkpoint.save_dir) / f"{distributed.get_rank()}.json").write_text(json.dumps(found))
    if second.strategy.holds_all and distributed.is_master():  # the other process waits at the barrier meanwhile
        alone = config(Path(cfg.checkpoint.save_dir) / "alone").checkpoint
        assert run.save(alone, second, place, None, stopping=True).paths
    distributed.barrier()


def save_on_a_full_disk(cfg: DictConfig, trainer: SmallTrainer, place: Any) -> list[Any]:
    """Rank 1 cannot write its part, and then rank 0 cannot rename the folder."""
    trainer.train(1)
    errors: list[Any] = []

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, function, rank in ((dcp.FileSystemWriter, "write_data", 1), (atomic, "put_folder_in_place", 0)):
        with pytest.MonkeyPatch.context() as patch:
            if distributed.get_rank() == rank:
                patch.setattr(owner, function, refuse)
            result = run.save(cfg.checkpoint, trainer, place, val_loss=None)
            errors.append(None if result is None else [len(result.paths), result.error])
    return errors


@pytest.mark.process
@pytest.mark.parametrize("name", ["whole", "rows"])
def test_two_processes_save_and_continue_together(tmp_path: Path, name: str) -> None:
    launch.call_main(config(tmp_path, processes=2, async_save=name == "rows"), live_twice, name=name)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    ending = "shards" if name == "rows" else "pt"
    wanted = [f"checkpoint_last.{ending}", f"checkpoint_best.{ending}"]
    assert first["paths"] == [wanted, []] and second["paths"] == [None, None]
    assert first["collected"] == second["collected"] == 2
    assert first["resumed"] == second["resumed"] == [1.0, 1.0, 2, 3]
    for rank, found in enumerate((first, second)):
        rows = slice(rank, rank + 1) if name == "rows" else slice(None)
        assert found["own"] == [tensor[rows].tolist() for tensor in unbroken(2)]
    for file, updates in (("checkpoint_best", 2), ("checkpoint_last", 3)):
        for path in io.forms(tmp_path / f"{file}.pt"):  # with rows, the folder and, at the end of the run, the file
            saved = tensors_of(io.load(path))
            assert all(torch.equal(one, other) for one, other in zip(saved, unbroken(updates), strict=True)), path
    assert (tmp_path / "alone" / "checkpoint_last.pt").exists() is (name == "whole")
    names = {path.name for path in tmp_path.iterdir()}
    if name == "rows":
        assert {*wanted, "checkpoint_last.pt", "checkpoint_best.pt"} < names
        refused = f"cannot write checkpoint {tmp_path}/checkpoint_last.shards: "
        assert all(
            paths == 0 and error.startswith(refused) and "No space" in error for paths, error in first["refused"]
        )
        assert second["refused"] == [None, None] and not [path for path in names if path.endswith(".tmp")]


def test_a_process_that_holds_a_part_does_not_save_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(tmp_path)
    trainer: Any = SmallTrainer(cfg, Rows(), rows=1)
    trainer.is_between_updates, trainer.data_parallel_world_size = True, 2
    saves = Saves(trainer, Place(1))
    trainer.train(1)
    with pytest.raises(ZeroDivisionError):
        saves.after_error(ZeroDivisionError("of another process"), flush=SimpleNamespace)
    assert trainer.collected == 0 and os.listdir(tmp_path) == []
    assert "Update 1 is not saved: each process holds a shard of the model" in caplog.text
    assert saves.after_signal("SIGTERM") == exit_status.UNSAVED


# -- saving while training continues -----------------------------------------------------------------------------------


class Gate:
    """`io.save`, held up until it may write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.full_at: list[int] = []  # the updates at which the disk is full
        self._save = io.save
        monkeypatch.setattr(io, "save", self.save)

    def save(self, state: dict[str, Any], path: str) -> str:
        self.reached.set()
        assert self.open.wait(10)
        if state["optimizer_history"][-1]["num_updates"] in self.full_at:
            raise io.CheckpointWriteError(errno.ENOSPC, "No space left on device")
        return self._save(state, path)


def saving(folder: Path, **checkpoint: Any) -> tuple[SmallTrainer, Saves]:
    cfg = config(folder, **checkpoint)
    trainer: Any = SmallTrainer(cfg, strategy_of("whole", cfg), rows=2)
    trainer.is_between_updates, trainer.data_parallel_world_size = True, 1
    return trainer, Saves(trainer, Place(1))


def test_the_save_after_an_interrupted_validation_belongs_to_the_epoch_that_ended(tmp_path: Path) -> None:
    """An unbroken run has no other names, and the rules about which files are kept count them."""
    trainer, saves = saving(tmp_path, save_interval_updates=2)
    trainer.train(2)
    saves.epoch_itr = Place(4)
    saves.save(0.5, ended_epoch=3)
    names = {"checkpoint3.pt", "checkpoint_3_2.pt", "checkpoint_best.pt", "checkpoint_last.pt"}
    assert {*os.listdir(tmp_path)} == names


@pytest.mark.parametrize("key", ["async_save", "write_checkpoints_asynchronously"])
def test_training_continues_while_the_state_of_its_update_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level("INFO")
    gate = Gate(monkeypatch)
    trainer, saves = saving(tmp_path, **{key: True})
    trainer.train(2)
    saves.save(val_loss=1.0)
    assert gate.reached.wait(10)
    trainer.train(1)  # the first state is still being written
    trainer.run_record.observe(0.5, 3)
    saves.epoch_itr.done = 3
    assert "is not written yet" in saves.last_checkpoint and os.listdir(tmp_path) == []
    threading.Timer(0.1, gate.open.set).start()
    saves.save(val_loss=None)  # waits for the first
    assert "for the checkpoint of update 2 to be written" in caplog.text
    assert saves.last_checkpoint.endswith("of update 2")
    saves.finish()
    assert saves.last_checkpoint.endswith("checkpoint_last.pt, of update 3")
    for file, updates, done, best in (("checkpoint_best.pt", 2, 0, 1.0), ("checkpoint_last.pt", 3, 3, 0.5)):
        state = io.load(tmp_path / file)
        assert all(torch.equal(*pair) for pair in zip(tensors_of(state), unbroken(updates), strict=True)), file
        extra = state["extra_state"]
        assert (extra["train_iterator"]["done"], extra["best"]) == (done, best)
        assert state["optimizer_history"][-1]["num_updates"] == updates


@pytest.mark.parametrize("ending", ["end", "signal", "error"])
def test_every_end_waits_for_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    gate = Gate(monkeypatch)
    trainer, saves = saving(tmp_path, async_save=True)
    trainer.train(2)
    saves.save(val_loss=1.0)
    threading.Timer(0.1, gate.open.set).start()
    if ending == "end":
        assert saves.at_the_end() == 0
    elif ending == "signal":
        assert saves.after_signal("SIGTERM") == exit_status.STOPPED
    else:
        with pytest.raises(ZeroDivisionError):
            saves.after_error(ZeroDivisionError("of the data"), flush=SimpleNamespace)
        assert "Update 2 is saved" in caplog.text
    assert io.load(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2


def test_a_full_disk_in_the_background_is_reported_and_the_best_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(monkeypatch)
    gate.open.set()
    gate.full_at = [2, 4]
    trainer, saves = saving(tmp_path, async_save=True)
    for val_loss in (2.0, 1.0, 1.5):
        trainer.train(1)
        saves.save(val_loss)
    assert "No space left on device" in caplog.text and "training continues" in caplog.text
    saves.finish()
    assert saves.last_checkpoint.endswith("of update 3")
    best = io.load(tmp_path / "checkpoint_best.pt")  # better than 2.0: that of 1.0 was never written
    assert best["extra_state"]["val_loss"] == 1.5 and best["extra_state"]["best"] == 1.0
    trainer.train(1)
    saves.save(val_loss=None)
    assert saves.at_the_end() == exit_status.UNSAVED and "its last state is not saved" in caplog.text
