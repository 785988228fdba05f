"""Warm-up, plateau, exponential decay: the schedule of wav2vec 2.0's fine-tuning.

Source: Park et al. 2019 (SpecAugment), section 4.3.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

from omegaconf import II

from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import TOPIC, several_rates


@dataclass
class TriStageLRScheduleConfig(FairseqDataclass):
    warmup_steps: int = field(default=0, metadata={"help": "updates of linear warm-up", "at_least": 0})
    hold_steps: int = field(default=0, metadata={"help": "updates at the full rate"})
    decay_steps: int = field(default=0, metadata={"help": "updates of exponential decay"})
    phase_ratio: Optional[tuple[float, float, float]] = field(
        default=None,
        metadata={
            "help": "shares of max_update for the three phases, instead of the three numbers; they must sum to 1"
        },
    )
    init_lr_scale: float = field(default=0.01, metadata={"help": "rate at the start, as a share of lr"})
    final_lr_scale: float = field(default=0.01, metadata={"help": "rate after the decay, as a share of lr"})
    max_update: float = II("optimization.max_update")
    lr: list[float] = II("optimization.lr")

    def check(self) -> Iterator[Finding]:
        yield from several_rates(self.lr, "tri_stage")
        if self.phase_ratio is not None:
            yield from self._phases(self.phase_ratio)
        elif sum(stages(self)) <= 0:
            yield wrong(
                "lr_scheduler=tri_stage has no updates. Set lr_scheduler.warmup_steps, lr_scheduler.hold_steps and "
                "lr_scheduler.decay_steps, or lr_scheduler.phase_ratio.",
                TOPIC,
            )
        if self.final_lr_scale <= 0:
            yield wrong(
                f"lr_scheduler.final_lr_scale is {self.final_lr_scale}: it must be above 0, since the decay is "
                "exponential.",
                TOPIC,
            )

    def _phases(self, phase_ratio: Sequence[float]) -> Iterator[Finding]:
        if self.max_update <= 0:
            yield wrong(
                "lr_scheduler.phase_ratio requires optimization.max_update, the length of the run. Set "
                "optimization.max_update.",
                TOPIC,
            )
        if len(phase_ratio) != 3 or abs(sum(phase_ratio) - 1) > 1e-6:
            yield wrong(
                f"lr_scheduler.phase_ratio is {list(phase_ratio)}: it must be three shares that sum to 1.", TOPIC
            )
        elif self.max_update > 0 and sum(stages(self)) == 0:
            yield wrong(
                f"optimization.max_update is {self.max_update:g}: every share of it in "
                f"lr_scheduler.phase_ratio={list(phase_ratio)} is less than one update. Set it to "
                f"{math.ceil(1 / max(phase_ratio))} or more.",
                TOPIC,
            )


def stages(cfg: TriStageLRScheduleConfig) -> tuple[int, int, int]:
    """Number of updates in each of the three stages."""
    if cfg.phase_ratio is None:
        return cfg.warmup_steps, cfg.hold_steps, cfg.decay_steps
    warmup, hold, decay = (int(cfg.max_update * share) for share in cfg.phase_ratio)
    return warmup, hold, decay


@register_lr_scheduler("tri_stage", dataclass=TriStageLRScheduleConfig)
class TriStageLRSchedule(FairseqLRScheduler):
    """Rise linearly from lr * init_lr_scale to lr, hold, then decay exponentially to lr * final_lr_scale."""

    def __init__(self, cfg: TriStageLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        self.peak_lr = learning_rates(cfg.lr)[0]
        self.init_lr = cfg.init_lr_scale * self.peak_lr
        self.final_lr = cfg.final_lr_scale * self.peak_lr
        self.warmup_steps, self.hold_steps, self.decay_steps = stages(cfg)
        self.warmup_rate = (self.peak_lr - self.init_lr) / self.warmup_steps if self.warmup_steps else 0.0
        self.decay_factor = -math.log(cfg.final_lr_scale) / self.decay_steps if self.decay_steps else 0.0
        self._set(self.init_lr)

    def step_update(self, num_updates: int) -> float:
        if num_updates < self.warmup_steps:
            return self._set(self.init_lr + self.warmup_rate * num_updates)
        held = num_updates - self.warmup_steps
        if held < self.hold_steps:
            return self._set(self.peak_lr)
        decayed = held - self.hold_steps
        if decayed <= self.decay_steps:
            return self._set(self.peak_lr * math.exp(-self.decay_factor * decayed))
        return self._set(self.final_lr)
