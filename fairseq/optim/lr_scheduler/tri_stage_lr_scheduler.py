"""Warm-up, plateau, exponential decay: the schedule of wav2vec 2.0's fine-tuning. Source: Park et al. 2019
(SpecAugment), section 4.3.
"""

import math
from dataclasses import dataclass, field
from typing import Optional

from omegaconf import II

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import single_rate


@dataclass
class TriStageLRScheduleConfig(FairseqDataclass):
    warmup_steps: int = field(default=0, metadata={"help": "updates of linear rise"})
    hold_steps: int = field(default=0, metadata={"help": "updates at the full rate"})
    decay_steps: int = field(default=0, metadata={"help": "updates of exponential decay"})
    phase_ratio: Optional[tuple[float, float, float]] = field(
        default=None,
        metadata={"help": "shares of max_update for the three phases, in place of the three numbers; they add up to 1"},
    )
    init_lr_scale: float = field(default=0.01, metadata={"help": "rate at the start, as a share of lr"})
    final_lr_scale: float = field(default=0.01, metadata={"help": "rate after the decay, as a share of lr"})
    max_update: float = II("optimization.max_update")
    lr: list[float] = II("optimization.lr")


@register_lr_scheduler("tri_stage", dataclass=TriStageLRScheduleConfig)
class TriStageLRSchedule(FairseqLRScheduler):
    """lr * init_lr_scale rises linearly to lr, stays, and decays exponentially to lr * final_lr_scale, where it
    ends.
    """

    def __init__(self, cfg: TriStageLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        self.peak_lr = single_rate(cfg.lr, "tri_stage")
        self.init_lr = cfg.init_lr_scale * self.peak_lr
        self.final_lr = cfg.final_lr_scale * self.peak_lr
        self.warmup_steps, self.hold_steps, self.decay_steps = self._steps()
        if self.warmup_steps + self.hold_steps + self.decay_steps <= 0:
            raise ValueError("lr_scheduler tri_stage needs warmup_steps, hold_steps and decay_steps, or phase_ratio.")
        if cfg.final_lr_scale <= 0:
            raise ValueError(f"lr_scheduler.final_lr_scale is {cfg.final_lr_scale}: an exponential decay ends above 0.")
        self.warmup_rate = (self.peak_lr - self.init_lr) / self.warmup_steps if self.warmup_steps else 0.0
        self.decay_factor = -math.log(cfg.final_lr_scale) / self.decay_steps if self.decay_steps else 0.0
        self._set(self.init_lr)

    def _steps(self) -> tuple[int, int, int]:
        cfg = self.cfg
        if cfg.phase_ratio is None:
            return cfg.warmup_steps, cfg.hold_steps, cfg.decay_steps
        if cfg.max_update <= 0:
            raise ValueError("lr_scheduler.phase_ratio needs optimization.max_update, of which it names shares.")
        if not math.isclose(sum(cfg.phase_ratio), 1.0, abs_tol=1e-6):
            raise ValueError(f"lr_scheduler.phase_ratio is {list(cfg.phase_ratio)}: the three shares must add up to 1.")
        warmup, hold, decay = (int(cfg.max_update * share) for share in cfg.phase_ratio)
        if warmup + hold + decay == 0:
            raise ValueError(
                f"optimization.max_update is {cfg.max_update:g}: every share of it in "
                f"lr_scheduler.phase_ratio={list(cfg.phase_ratio)} is less than one update. Set it to "
                f"{math.ceil(1 / max(cfg.phase_ratio))} or more."
            )
        return warmup, hold, decay

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
