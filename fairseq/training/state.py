"""The state of a run that training changes, and saving and restoring it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.checkpoint import compare
from fairseq.dataclass.utils import config_to_container
from fairseq.distributed.sharding import plain
from fairseq.distributed.strategy import Strategy
from fairseq.logging import metrics
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import FairseqLRScheduler
from fairseq.tasks.task import Task
from fairseq.training.ema import EMA
from fairseq.training.precision import Precision
from fairseq.training.statistics import Interval

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """The parts of a `Trainer` that training changes, with their counts.

    There is no random state: all randomness is a function of (seed, epoch, sample, update, micro-batch).

    Args:
        model: without a wrapper.
        strategy: how the processes share the tensors, which may be shards here.
    """

    cfg: DictConfig
    task: Task
    model: nn.Module
    criterion: nn.Module
    optimizer: FairseqOptimizer
    lr_scheduler: FairseqLRScheduler
    precision: Precision
    ema: EMA | None
    strategy: Strategy
    num_updates: int = 0
    held: Interval | None = None  # statistics of the current log interval that were read before its end
    began: float = field(default_factory=time.time)  # when this process started
    seconds_before: float = 0.0  # trained by earlier processes of this run

    def set_num_updates(self, num_updates: int) -> None:
        """Set the count of updates, and the learning rate of the next one."""
        self.num_updates = num_updates
        self.lr_scheduler.step_update(num_updates)

    def seconds(self) -> float:
        """Seconds trained, over all resumes."""
        return time.time() - self.began + self.seconds_before

    # -- into a checkpoint ---------------------------------------------------------------------------------------------

    def collect(self) -> dict[str, Any]:
        """Return this process's state under fairseq's top-level keys: plain containers, and tensors on their device.

        The caller must have flushed the statistics, on all processes.
        """
        state = {
            "args": None,
            "cfg": config_to_container(self.cfg),
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer_history": [
                {
                    "criterion_name": type(self.criterion).__name__,
                    "optimizer_name": type(self.optimizer).__name__,
                    "lr_scheduler_state": self.lr_scheduler.state_dict(),
                    "num_updates": self.num_updates,
                }
            ],
            "task_state": self.task.state_dict(),
            "extra_state": self._extra_state(),
        }
        if not self.cfg.checkpoint.no_save_optimizer_state:
            state["last_optimizer_state"] = self.strategy.optimizer_state(
                self.optimizer.state_dict(), list(self.optimizer.params)
            )
        return state

    def only_steps_change(self) -> Iterator[Tensor]:
        """Yield the tensors of the state that nothing but an optimizer's step changes."""
        yield from self.optimizer.params
        for values in self.optimizer.state_dict()["state"].values():
            yield from (value for value in values.values() if isinstance(value, Tensor))
        if self.ema is not None:
            yield from map(plain, self.ema.params.values())

    def _extra_state(self) -> dict[str, Any]:
        extra = {
            "metrics": metrics.state_dict(),
            "previous_training_time": self.seconds(),
            "data_fingerprint": self.task.data_fingerprint(),
            "precision": self.precision.state_dict(),
        }
        if self.held is not None:
            extra["held_statistics"] = self.held._asdict()
        if self.ema is not None:
            extra["ema"] = self.ema.state_dict()
        return extra

    # -- out of a checkpoint -------------------------------------------------------------------------------------------

    def restore(
        self,
        state: dict[str, Any],
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        reset_meters: bool = False,
        optimizer_overrides: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Restore a state that `collect` returned, and return its `extra_state`.

        Args:
            state: whole tensors, on the CPU.
            reset_optimizer: load only the weights; optimizer, schedule and update count start fresh.
            reset_lr_scheduler: load the optimizer's state, but restart the schedule.
            optimizer_overrides: values that replace those in the optimizer's param groups.
        Raises:
            WeightsDoNotFit: the weights belong to another model.
            ValueError: the weights do not fit the task, or there is no optimizer state.
        """
        extra: dict[str, Any] = state.get("extra_state") or {}
        self._restore_weights(state, only_weights=reset_optimizer)
        if state.get("optimizer_history") and not reset_optimizer:
            self._restore_optimizer(state, reset_lr_scheduler, optimizer_overrides)
            self.precision.load_state_dict(extra.get("precision", {}))
        self._restore_average(None if reset_optimizer else extra.get("ema"))
        if not reset_meters:
            self._restore_meters(extra)
        return extra

    def _restore_weights(self, state: dict[str, Any], only_weights: bool) -> None:
        weights = self.task.adapted_weights(state, self.model, only_weights=only_weights)
        own = self.model.state_dict()
        try:
            self.model.load_state_dict(self.strategy.shard(weights, like=own), strict=True)
        except RuntimeError as error:
            found = compare.unlike(weights, own)
            if not found:  # names and shapes match: another error
                raise
            raise compare.WeightsDoNotFit(found) from error

    def _restore_optimizer(
        self, state: dict[str, Any], reset_lr_scheduler: bool, overrides: dict[str, Any] | None
    ) -> None:
        last, optimizer_state = state["optimizer_history"][-1], state.get("last_optimizer_state")
        if last["criterion_name"] != type(self.criterion).__name__:
            raise ValueError(
                f"the checkpoint was trained with criterion {last['criterion_name']}, this run uses "
                f"{type(self.criterion).__name__}. Set checkpoint.reset_optimizer=true to load only its weights."
            )
        if optimizer_state is None:
            raise ValueError(
                "the checkpoint has no optimizer state. Set checkpoint.reset_optimizer=true to load only its weights."
            )
        parts = self.strategy.shard_optimizer(optimizer_state, list(self.optimizer.params))
        self.optimizer.load_state_dict(parts, overrides)
        if not reset_lr_scheduler:
            self.lr_scheduler.load_state_dict(last["lr_scheduler_state"])
        self.set_num_updates(last["num_updates"])

    def _restore_average(self, saved: dict[str, Any] | None) -> None:
        """Restore the running average of the weights; without a saved one, it starts from the model's."""
        if self.ema is None:
            return
        if saved is None:
            self.ema.reset(self.model)
        else:
            self.ema.load_state_dict(self.strategy.shard(saved, like=self.ema.params))

    def _restore_meters(self, extra: dict[str, Any]) -> None:
        self.seconds_before = extra.get("previous_training_time", 0.0)
        self.began = time.time()
        if "metrics" in extra:
            metrics.load_state_dict(extra["metrics"])
        if "held_statistics" in extra:
            self.held = Interval(**extra["held_statistics"])
