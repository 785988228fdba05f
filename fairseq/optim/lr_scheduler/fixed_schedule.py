"""One learning rate per epoch (the last one is kept), optional decay from an epoch on, optional warm-up."""

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler


@dataclass
class FixedLRScheduleConfig(FairseqDataclass):
    force_anneal: Optional[int] = field(
        default=None, metadata={"help": "from this epoch on, multiply by lr_shrink every epoch"}
    )
    lr_shrink: float = field(default=0.1, metadata={"help": "factor per epoch after force_anneal"})
    warmup_updates: int = field(
        default=0, metadata={"help": "updates over which the rate rises linearly", "at_least": 0}
    )
    lr: list[float] = II("optimization.lr")


@register_lr_scheduler("fixed", dataclass=FixedLRScheduleConfig)
class FixedLRSchedule(FairseqLRScheduler):
    """lr[epoch - 1], then lr[-1] * lr_shrink ** (epoch + 1 - force_anneal).

    During the warm-up, times (n + 1) / warmup_updates.
    """

    def __init__(self, cfg: FixedLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        self.rates = learning_rates(cfg.lr)
        self.epoch_lr = self.rates[0]
        self.warmup_factor = 1.0 / cfg.warmup_updates if cfg.warmup_updates > 0 else 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "lr": self.epoch_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load only `best`: the rate follows from config and epoch, so a changed optimization.lr takes effect."""
        super().load_state_dict(state_dict)

    def step_begin_epoch(self, epoch: int) -> float:
        anneal = self.cfg.force_anneal
        if anneal is None or epoch < anneal:
            self.epoch_lr = self.rates[min(epoch - 1, len(self.rates) - 1)]
        else:
            self.epoch_lr = self.rates[-1] * self.cfg.lr_shrink ** (epoch + 1 - anneal)
        return self._set(self.warmup_factor * self.epoch_lr)

    def step_update(self, num_updates: int) -> float:
        warmup = self.cfg.warmup_updates
        self.warmup_factor = min((num_updates + 1) / warmup, 1.0) if warmup > 0 else 1.0
        return self._set(self.warmup_factor * self.epoch_lr)
