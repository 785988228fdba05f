"""What a checkpoint of a run holds, under fairseq's top-level keys."""

from __future__ import annotations

import logging
import time
from typing import Any

from fairseq import utils
from fairseq.checkpoint import compare
from fairseq.dataclass.utils import config_to_container
from fairseq.logging import metrics
from fairseq.training.statistics import Interval

logger = logging.getLogger(__name__)


def collect(trainer: Any) -> dict[str, Any]:
    """A `Trainer`'s run as tensors on the CPU and plain containers; the caller has flushed the statistics, on all
    processes.

    No random state is in it: all randomness is a function of (seed, epoch, sample, update, micro-batch).
    """
    state = {
        "args": None,
        "cfg": config_to_container(trainer.cfg),
        "model": trainer.unwrapped_model.state_dict(),
        "criterion": trainer.criterion.state_dict(),
        "optimizer_history": [
            {
                "criterion_name": type(trainer.criterion).__name__,
                "optimizer_name": type(trainer.optimizer).__name__,
                "lr_scheduler_state": trainer.lr_scheduler.state_dict(),
                "num_updates": trainer.get_num_updates(),
            }
        ],
        "task_state": trainer.task.state_dict(),
        "extra_state": {
            "metrics": metrics.state_dict(),
            "previous_training_time": trainer.cumulative_training_time(),
            "data_fingerprint": trainer.task.data_fingerprint(),
            "precision": trainer.precision.state_dict(),
        },
    }
    if not trainer.cfg.checkpoint.no_save_optimizer_state:
        state["last_optimizer_state"] = trainer.optimizer.state_dict()
    if trainer.held is not None:
        state["extra_state"]["held_statistics"] = trainer.held._asdict()
    if trainer.ema is not None:
        state["extra_state"]["ema"] = trainer.ema.state_dict()
    return utils.apply_to_sample(lambda tensor: tensor.detach().cpu(), state)


def restore(
    trainer: Any,
    state: dict[str, Any],
    reset_optimizer: bool = False,
    reset_lr_scheduler: bool = False,
    reset_meters: bool = False,
    optimizer_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a `Trainer`'s run back as `collect` found it; returns the `extra_state`.

    Args:
        reset_optimizer: keep only the weights: fresh optimizer, schedule and update count.
        reset_lr_scheduler: keep the optimizer's state but start the schedule anew.
        optimizer_overrides: values put over those in the optimizer's param groups.
    Raises:
        WeightsDoNotFit: they are not the model's.
        ValueError: they are not the task's, or there is no optimizer state.
    """
    weights = trainer.task.adapted_weights(state, trainer.unwrapped_model, only_weights=reset_optimizer)
    try:
        trainer.unwrapped_model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        found = compare.unlike(weights, trainer.unwrapped_model.state_dict())
        if not found:  # not a matter of names and shapes
            raise
        raise compare.WeightsDoNotFit(found) from error
    history = state.get("optimizer_history") or []
    extra = state.get("extra_state") or {}
    optimizer_state = state.get("last_optimizer_state")
    if history and not reset_optimizer:
        last = history[-1]
        if last["criterion_name"] != type(trainer.criterion).__name__:
            raise ValueError(
                f"the checkpoint was trained with criterion {last['criterion_name']}, this run has "
                f"{type(trainer.criterion).__name__}: set checkpoint.reset_optimizer=true to take only its weights"
            )
        if optimizer_state is None:
            raise ValueError(
                "the checkpoint holds no optimizer state: set checkpoint.reset_optimizer=true to take only its weights"
            )
        trainer.optimizer.load_state_dict(optimizer_state, optimizer_overrides)
        if not reset_lr_scheduler:
            trainer.lr_scheduler.load_state_dict(last["lr_scheduler_state"])
        trainer.set_num_updates(last["num_updates"])
        trainer.precision.load_state_dict(extra.get("precision", {}))
    if trainer.ema is not None:
        if "ema" in extra and not reset_optimizer:
            trainer.ema.load_state_dict(extra["ema"])
        else:
            trainer.ema.reset(trainer.unwrapped_model)
    if not reset_meters:
        trainer.previous_training_time = extra.get("previous_training_time", 0.0)
        trainer.start_time = time.time()
        if "metrics" in extra:
            metrics.load_state_dict(extra["metrics"])
        if "held_statistics" in extra:
            trainer.held = Interval(**extra["held_statistics"])
    return extra
