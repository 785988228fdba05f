"""Learning rate schedules: functions of the update number, and for some of the epoch."""

from __future__ import annotations

from typing import Any

from fairseq import registry
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import FairseqLRScheduler, LegacyFairseqLRScheduler

build_lr_scheduler_, register_lr_scheduler, LR_SCHEDULER_REGISTRY, LR_SCHEDULER_DATACLASS_REGISTRY = (
    registry.setup_registry("--lr-scheduler", base_class=FairseqLRScheduler, default="fixed")
)


def build_lr_scheduler(cfg: Any, optimizer: FairseqOptimizer) -> FairseqLRScheduler:
    """Build the schedule named by `cfg._name` for `optimizer`.

    Raises:
        ValueError: the optimizer's groups have their own schedules, which this one would override.
    """
    schedule = build_lr_scheduler_(cfg, optimizer)
    brings_its_own = getattr(optimizer, "lr_scheduler", None) is not None
    if brings_its_own and not isinstance(schedule, pass_through.PassThroughScheduleSchedule):
        raise ValueError(
            "Each of optimizer.groups has an lr_scheduler, which the run's would override. Set "
            "lr_scheduler=pass_through."
        )
    return schedule


from fairseq.optim.lr_scheduler import (  # noqa: E402
    cosine_lr_scheduler,
    fixed_schedule,
    inverse_square_root_schedule,
    pass_through,
    polynomial_decay_schedule,
    tri_stage_lr_scheduler,
)

__all__ = [
    "FairseqLRScheduler",
    "LegacyFairseqLRScheduler",
    "build_lr_scheduler",
    "cosine_lr_scheduler",
    "fixed_schedule",
    "inverse_square_root_schedule",
    "pass_through",
    "polynomial_decay_schedule",
    "register_lr_scheduler",
    "tri_stage_lr_scheduler",
]
