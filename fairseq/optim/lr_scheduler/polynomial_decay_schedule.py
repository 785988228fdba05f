"""Linear warm-up, then decay by a power of the share of updates left; with power 1, that of the wav2vec 2.0 paper."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II

from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import TOPIC


@dataclass
class PolynomialDecayLRScheduleConfig(FairseqDataclass):
    warmup_updates: int = field(default=0, metadata={"help": "updates over which the rate rises from 0", "at_least": 0})
    force_anneal: Optional[int] = field(
        default=None, metadata={"help": "from this epoch on, decay from the current rate, not from lr"}
    )
    end_learning_rate: float = field(default=0.0, metadata={"help": "rate at and after total_num_update"})
    power: float = field(default=1.0, metadata={"help": "exponent of the share of remaining updates"})
    total_num_update: float = field(
        default=II("optimization.max_update"), metadata={"help": "update at which the end rate is reached"}
    )
    lr: list[float] = II("optimization.lr")

    def check(self) -> Iterator[Finding]:
        if self.total_num_update <= 0:
            yield wrong(
                "lr_scheduler=polynomial_decay requires optimization.max_update, the length of the run. Set "
                "optimization.max_update.",
                TOPIC,
            )


@register_lr_scheduler("polynomial_decay", dataclass=PolynomialDecayLRScheduleConfig)
class PolynomialDecayLRSchedule(FairseqLRScheduler):
    """lr * n / warmup_updates, then end + (lr - end) * ((total - n) / (total - warmup_updates)) ** power."""

    def __init__(self, cfg: PolynomialDecayLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        self.rates = learning_rates(cfg.lr)
        self.peak = self.rates[0]
        self.epoch: Optional[int] = None
        self.warmup_factor = 1.0 / cfg.warmup_updates if cfg.warmup_updates > 0 else 1.0
        self._set(self.warmup_factor * self.peak)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "peak": self.peak, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the peak only after force_anneal, where it is the rate at the start of the epoch."""
        super().load_state_dict(state_dict)
        self.epoch = state_dict.get("epoch")  # a run that resumes after its last update begins no epoch
        if self._annealed(self.epoch):
            self.peak = state_dict["peak"]

    def _annealed(self, epoch: Optional[int]) -> bool:
        return epoch is not None and self.cfg.force_anneal is not None and epoch >= self.cfg.force_anneal

    def step_begin_epoch(self, epoch: int) -> float:
        if not self._annealed(epoch):
            # fairseq: epochs count from 1, so the second rate is the first epoch's
            self.peak = self.rates[min(epoch, len(self.rates) - 1)]
        elif epoch != self.epoch:
            self.peak = self.optimizer.get_lr()
        self.epoch = epoch
        return self._set(self.warmup_factor * self.peak)

    def step_update(self, num_updates: int) -> float:
        warmup, total, end = self.cfg.warmup_updates, self.cfg.total_num_update, self.cfg.end_learning_rate
        if warmup > 0 and num_updates <= warmup:
            self.warmup_factor = num_updates / warmup
            return self._set(self.warmup_factor * self.peak)
        self.warmup_factor = 1.0
        if num_updates >= total:
            return self._set(end)
        left = 1 - (num_updates - warmup) / (total - warmup)
        return self._set((self.peak - end) * left**self.cfg.power + end)
