"""Linear warm-up, then decay with the inverse square root of the update number.

Source: Vaswani et al. 2017, section 5.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import II

from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import TOPIC, several_rates


@dataclass
class InverseSquareRootLRScheduleConfig(FairseqDataclass):
    warmup_updates: int = field(
        default=4000, metadata={"help": "updates over which the rate rises to lr; at least 1", "at_least": 0}
    )
    warmup_init_lr: float = field(default=-1, metadata={"help": "rate at update 0; negative: 0"})
    lr: list[float] = II("optimization.lr")

    def check(self) -> Iterator[Finding]:
        yield from several_rates(self.lr, "inverse_sqrt")
        if self.warmup_updates == 0:
            yield wrong(
                f"lr_scheduler.warmup_updates is {self.warmup_updates}: inverse_sqrt requires at least 1, since it "
                "decays as sqrt(warmup_updates / n).",
                TOPIC,
            )


@register_lr_scheduler("inverse_sqrt", dataclass=InverseSquareRootLRScheduleConfig)
class InverseSquareRootSchedule(FairseqLRScheduler):
    """Linear from warmup_init_lr to lr, then lr * sqrt(warmup_updates / n)."""

    def __init__(self, cfg: InverseSquareRootLRScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        peak = learning_rates(cfg.lr)[0]
        self.warmup_init_lr = max(cfg.warmup_init_lr, 0.0)
        self.lr_step = (peak - self.warmup_init_lr) / cfg.warmup_updates
        self.decay_factor = peak * cfg.warmup_updates**0.5
        self._set(self.warmup_init_lr)

    def step_update(self, num_updates: int) -> float:
        if num_updates < self.cfg.warmup_updates:
            return self._set(self.warmup_init_lr + num_updates * self.lr_step)
        return self._set(self.decay_factor * num_updates**-0.5)
