"""The base class of learning rate schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional, cast

from fairseq.dataclass import Finding, wrong
from fairseq.dataclass.checks import refuse
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates

TOPIC = "schedule"  # of findings


class FairseqLRScheduler:
    """Set an optimizer's learning rate.

    The trainer calls `step_begin_epoch`, `step_update` after every update, and `step` after validation. A schedule is a
    function of the update number (and of the epoch), so calling `step_update` or `step_begin_epoch` again changes
    nothing. Its state dict has only what it cannot compute from these.
    """

    def __init__(self, cfg: Any, optimizer: Optional[FairseqOptimizer]) -> None:
        if optimizer is not None and not isinstance(optimizer, FairseqOptimizer):
            raise ValueError(
                f"The optimizer of a schedule is a {type(optimizer).__name__}. It must be a FairseqOptimizer."
            )
        refuse(cfg, "lr_scheduler", type(self))
        self.cfg = cfg
        # None only in CompositeLRScheduler, which does not use it
        self.optimizer = cast(FairseqOptimizer, optimizer)
        self.best: Optional[float] = None  # lowest validation loss so far

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict.get("best")

    def step_begin_epoch(self, epoch: int) -> float:
        """Prepare for an epoch (from 1); returns the learning rate."""
        return self.optimizer.get_lr()

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        """Record a validation loss at the end of an epoch; returns the learning rate."""
        if val_loss is not None:
            self.best = val_loss if self.best is None else min(self.best, val_loss)
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        """Set and return the learning rate of the next update, after `num_updates` updates."""
        return self.optimizer.get_lr()

    def _set(self, lr: float) -> float:
        self.lr = lr
        self.optimizer.set_lr(lr)
        return lr


class LegacyFairseqLRScheduler(FairseqLRScheduler):
    """A schedule that takes old command-line arguments."""

    def __init__(self, args: Any, optimizer: FairseqOptimizer) -> None:
        super().__init__(args, optimizer)
        self.args = args


def several_rates(lr: Any, schedule: str) -> Iterator[Finding]:
    """Report an error if there are several learning rates and the schedule has no epochs."""
    rates = learning_rates(lr)
    if len(rates) > 1:
        yield wrong(f"optimization.lr is {rates} but lr_scheduler={schedule} takes one learning rate.", TOPIC)
