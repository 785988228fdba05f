"""Saving and continuing a run whose processes hold the whole model, and one whose processes hold a part each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq import device, optim, utils
from fairseq.checkpoint import io, run
from fairseq.checkpoint.record import RunRecord
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import launch
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

    holds_all = False

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return distributed.all_reduce(utils.total_norm(gradients) ** 2).sqrt()

    def gather(self, state: dict[str, Any], wanted: bool) -> dict[str, Any] | None:
        if not distributed.broadcast_object(wanted):
            return None
        whole = utils.apply_to_sample(
            lambda part: torch.cat(distributed.all_gather_list(part.detach())) if part.dim() == 2 else part, state
        )
        return whole if distributed.is_master() else None

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: self._part(tensor) for name, tensor in whole.items()}

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return utils.apply_to_sample(self._part, whole)

    @staticmethod
    def _part(tensor: Tensor) -> Tensor:
        rank = distributed.get_rank()
        return tensor[rank : rank + 1] if tensor.dim() == 2 else tensor


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
        self.is_data_parallel_master = distributed.is_master()
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
            self.state.optimizer.step()
            self.state.set_num_updates(self.state.num_updates + 1)
            self.state.ema.step(self.state.model, self.state.num_updates)

    def get_num_updates(self) -> int:
        return self.state.num_updates

    def get_train_iterator(self, epoch: int, load_dataset: bool = True) -> Any:
        return Place(epoch)

    def state_dict(self) -> dict[str, Any]:
        self.collected += 1
        return self.state.collect()

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
    results = [run.save(cfg.checkpoint, first, place, val_loss=1.0)]
    not_due = config(cfg.checkpoint.save_dir, no_last_checkpoints=True).checkpoint
    results.append(run.save(not_due, first, place, val_loss=None))
    distributed.barrier()  # the file is there
    second = SmallTrainer(cfg, strategy_of(name, cfg), rows)
    extra_state, place = run.resume(cfg.checkpoint, second)
    own = [tensor.tolist() for tensor in tensors_of(second.state.collect())]
    second.train(1)
    run.save(cfg.checkpoint, second, place, val_loss=2.0)
    found = {
        "paths": [None if result is None else [os.path.basename(path) for path in result.paths] for result in results],
        "collected": first.collected,
        "own": own,
        "resumed": [second.run_record.best, extra_state["val_loss"], place.done, second.get_num_updates()],
    }
    (Path(cfg.checkpoint.save_dir) / f"{distributed.get_rank()}.json").write_text(json.dumps(found))
    if second.strategy.holds_all and distributed.is_master():  # the other process waits at the barrier meanwhile
        alone = config(Path(cfg.checkpoint.save_dir) / "alone").checkpoint
        assert run.save(alone, second, place, None, stopping=True).paths
    distributed.barrier()


@pytest.mark.process
@pytest.mark.parametrize("name", ["whole", "rows"])
def test_two_processes_save_and_continue_together(tmp_path: Path, name: str) -> None:
    launch.call_main(config(tmp_path, processes=2), live_twice, name=name)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["paths"] == [["checkpoint_last.pt", "checkpoint_best.pt"], []] and second["paths"] == [None, None]
    assert first["collected"] == second["collected"] == 2
    assert first["resumed"] == second["resumed"] == [1.0, 1.0, 2, 3]
    for rank, found in enumerate((first, second)):
        rows = slice(rank, rank + 1) if name == "rows" else slice(None)
        assert found["own"] == [tensor[rows].tolist() for tensor in unbroken(2)]
    for file, updates in (("checkpoint_best.pt", 2), ("checkpoint_last.pt", 3)):
        saved = tensors_of(io.load(tmp_path / file))
        assert all(torch.equal(one, other) for one, other in zip(saved, unbroken(updates), strict=True)), file
    assert (tmp_path / "alone" / "checkpoint_last.pt").exists() is (name == "whole")


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
    assert saves.after_signal("SIGTERM") == launch.UNSAVED
