"""Linear warm-up, then cosine decay in periods. Source: Loshchilov and Hutter 2017 (SGDR)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import TOPIC, several_rates


@dataclass
class CosineLRScheduleConfig(FairseqDataclass):
    warmup_updates: int = field(
        default=0, metadata={"help": "updates over which the rate rises from warmup_init_lr", "at_least": 0}
    )
    warmup_init_lr: float = field(default=-1, metadata={"help": "rate at update 0; negative: min_lr"})
    lr: list[float] = field(default=II("optimization.lr"), metadata={"help": "largest rate"})
    min_lr: float = field(default=0.0, metadata={"help": "rate at the end of a period; never above lr"})
    t_mult: float = field(
        default=1.0, metadata={"help": "length of each period relative to the previous one", "at_least": 1}
    )
    lr_period_updates: float = field(
        default=-1, metadata={"help": "updates in the first period; 0 or less: all after the warm-up"}
    )
    lr_shrink: float = field(default=0.1, metadata={"help": "factor on both rates after each period"})
    max_update: int = II("optimization.max_update")

    def check(self) -> Iterator[Finding]:
        yield from several_rates(self.lr, "cosine")
        if first_period(self) <= 0:
            yield wrong(
                f"lr_scheduler=cosine has no updates to decay over: optimization.max_update is {self.max_update} and "
                f"lr_scheduler.warmup_updates is {self.warmup_updates}. Raise optimization.max_update, or set "
                "lr_scheduler.lr_period_updates.",
                TOPIC,
            )


def first_period(cfg: CosineLRScheduleConfig) -> float:
    """Number of updates in the first period."""
    return cfg.lr_period_updates if cfg.lr_period_updates > 0 else cfg.max_update - cfg.warmup_updates


@register_lr_scheduler("cosine", dataclass=CosineLRScheduleConfig)
class CosineLRSchedule(FairseqLRScheduler):
    """min + (lr - min) / 2 * (1 + cos(pi * t / T)), t updates into a period of T; both rates shrink per period."""

    def __init__(self, cfg: CosineLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        self.max_lr = learning_rates(cfg.lr)[0]
        self.min_lr = min(cfg.min_lr, self.max_lr)
        self.warmup_init_lr = cfg.warmup_init_lr if cfg.warmup_init_lr >= 0 else self.min_lr
        self.period = first_period(cfg)
        self.lr_step = (self.max_lr - self.warmup_init_lr) / cfg.warmup_updates if cfg.warmup_updates > 0 else 1.0
        self._set(self.warmup_init_lr)

    def step_update(self, num_updates: int) -> float:
        if num_updates < self.cfg.warmup_updates:
            return self._set(self.warmup_init_lr + num_updates * self.lr_step)
        number, length, into = self._period(num_updates - self.cfg.warmup_updates)
        shrink = self.cfg.lr_shrink**number
        low, high = self.min_lr * shrink, self.max_lr * shrink
        return self._set(low + 0.5 * (high - low) * (1 + math.cos(math.pi * into / length)))

    def _period(self, updates: int) -> tuple[int, float, float]:
        """(number of the period, its length, updates into it), from the end of the warm-up."""
        growth = self.cfg.t_mult
        if growth == 1:
            number = math.floor(updates / self.period)
            return number, self.period, updates - self.period * number
        number = math.floor(math.log(1 - updates / self.period * (1 - growth), growth))
        before = (1 - growth**number) / (1 - growth) * self.period
        return number, growth**number * self.period, updates - before
