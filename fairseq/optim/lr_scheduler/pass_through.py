"""Leave the schedule to the optimizer: for `composite`, whose groups have their own."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler


@dataclass
class PassThroughScheduleConfig(FairseqDataclass):
    pass


@register_lr_scheduler("pass_through", dataclass=PassThroughScheduleConfig)
class PassThroughScheduleSchedule(FairseqLRScheduler):
    """Forward every call to `optimizer.lr_scheduler`."""

    def __init__(self, cfg: PassThroughScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        inner: Optional[FairseqLRScheduler] = getattr(optimizer, "lr_scheduler", None)
        if inner is None:
            raise ValueError(
                "lr_scheduler=pass_through requires an optimizer with its own schedules. Use optimizer=composite with "
                "an lr_scheduler in each group."
            )
        self.inner = inner

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def step_begin_epoch(self, epoch: int) -> float:
        return self.inner.step_begin_epoch(epoch)

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        return self.inner.step(epoch, val_loss)

    def step_update(self, num_updates: int) -> float:
        return self.inner.step_update(num_updates)
