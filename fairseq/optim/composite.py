"""Several optimizers, each with its own schedule, for groups of parameters.

A group has the parameters whose name its pattern matches (see `parameter_groups`), or that the model has given the
attribute `param_group`.
"""

import copy
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from omegaconf import II, DictConfig, open_dict
from torch import Tensor

from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim import FairseqOptimizer, build_optimizer, register_optimizer
from fairseq.optim.fairseq_optimizer import learning_rates
from fairseq.optim.lr_scheduler import FairseqLRScheduler, build_lr_scheduler

logger = logging.getLogger(__name__)

TOPIC = "optimisation"  # of findings


@dataclass
class OptimizerAndSchedulerConfig(FairseqDataclass):
    """One entry of `optimizer.groups`."""

    optimizer: Any = field(default=None, metadata={"help": "config of the group's optimizer, with its _name"})
    lr_scheduler: Optional[Any] = field(
        default=None, metadata={"help": "config of the group's schedule; either all groups have one, or none"}
    )
    lr: list[float] = II("optimization.lr")
    lr_float: Optional[float] = field(
        default=None, metadata={"help": "learning rate as one number, for sweeps; takes precedence over lr"}
    )
    # not fairseq's
    pattern: Optional[str] = field(
        default=None,
        metadata={
            "help": "regular expression: the group has the parameters in whose name it is found, except those of an "
            "earlier group's pattern"
        },
    )
    lr_scale: float = field(
        default=1.0, metadata={"help": "the group's learning rate is multiplied by it, at every point of a schedule"}
    )


@dataclass
class CompositeOptimizerConfig(FairseqDataclass):
    groups: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "param_group name -> OptimizerAndSchedulerConfig"}
    )
    dynamic_groups: bool = field(
        default=False,
        metadata={"help": "make a separate group for each set of a parameter's `optim_overrides` (lr_scale ...)"},
    )
    lr: list[float] = II("optimization.lr")
    # not fairseq's
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "block i of L learns with lr * layer_decay^(L - i), what comes before the blocks with lr * "
            "layer_decay^L, and what comes after them with lr",
            "share": True,
        },
    )

    def check(self) -> Iterator[Finding]:
        if self.layer_decay == 0:
            yield wrong("optimizer.layer_decay is 0: only the last block would learn. Set a number above 0.", TOPIC)
        for name, group in self.groups.items():
            pattern = group.get("pattern") if isinstance(group, Mapping) else None
            scale = group.get("lr_scale", 1.0) if isinstance(group, Mapping) else 1.0
            if isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale < 0:
                yield wrong(f"optimizer.groups.{name}.lr_scale is {scale!r}: it must be a number of 0 or more.", TOPIC)
            try:
                re.compile(pattern or "")
            except (re.error, TypeError) as error:
                yield wrong(
                    f"optimizer.groups.{name}.pattern is {pattern!r}: it must be a regular expression ({error}).", TOPIC
                )


@register_optimizer("composite", dataclass=CompositeOptimizerConfig)
class FairseqCompositeOptimizer(FairseqOptimizer):
    """Train each parameter with the optimizer of its group, `optimizer.groups[p.param_group]`.

    Parameters without that attribute, which `parameter_groups.mark` sets by name, are in the group "default". A
    parameter can have `optim_overrides = {"optimizer": {"lr_scale": x, "weight_decay_scale": y}}`; without
    `dynamic_groups`, they must be the same in all of a group.

    Raises:
        ValueError: a group without config, a config without parameters, different overrides in one group, schedules for
            some groups only.
    """

    def __init__(self, cfg: CompositeOptimizerConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        self.optimizers: dict[str, FairseqOptimizer] = {}
        self._scales: dict[str, float] = {}  # of the learning rates
        self.lr_schedulers: dict[str, FairseqLRScheduler] = {}
        self.lr_scheduler: Optional[FairseqLRScheduler] = None
        dynamic = cfg.dynamic_groups or cfg.layer_decay != 1
        members = _members(params, dynamic)
        _check_names({name for name, _ in members}, set(cfg.groups))
        for (name, overrides), group_params in members.items():
            key = f"{name}:{overrides}" if overrides and dynamic else name
            self._add(name, key, json.loads(overrides or "{}"), group_params)
        if self.lr_schedulers:
            without = sorted(set(self.optimizers) - set(self.lr_schedulers))
            if without:
                raise ValueError(
                    f"optimizer.groups: {', '.join(without)} has no lr_scheduler, but other groups do. Set it for "
                    "all groups, or for none."
                )
            self.lr_scheduler = CompositeLRScheduler(self.lr_schedulers)
        self._optimizer = CompositeOptimizer(self.optimizers)

    def _add(self, name: str, key: str, overrides: dict[str, Any], params: list[Tensor]) -> None:
        """Build the optimizer and schedule of one group of parameters; `key` names it in state dicts."""
        group_cfg = self.cfg.groups[name]
        of_optimizer = overrides.get("optimizer", {})
        scale = self._scales[key] = of_optimizer.get("lr_scale", 1.0) * group_cfg.get("lr_scale", 1.0)
        lr, optimizer_cfg = _settings(
            name, group_cfg, self.cfg.lr, scale, float(of_optimizer.get("weight_decay_scale", 1.0))
        )
        self.optimizers[key] = build_optimizer(optimizer_cfg, params)
        if group_cfg.get("lr_scheduler") is not None:
            scheduler_cfg = copy.deepcopy(group_cfg.lr_scheduler)
            with open_dict(scheduler_cfg):
                scheduler_cfg.lr = lr
            self.lr_schedulers[key] = build_lr_scheduler(scheduler_cfg, self.optimizers[key])
        logger.info(f"optimizer group {key}: {len(params)} parameter tensors, {optimizer_cfg._name}, lr {lr}")

    @property
    def param_groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers.values():
            yield from optimizer.param_groups

    def get_lr(self) -> float:
        """The learning rate of the group "default", or of the first group."""
        return self.optimizers["default" if "default" in self.optimizers else next(iter(self.optimizers))].get_lr()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all groups, times the scale of each; for a schedule that they share."""
        for key, optimizer in self.optimizers.items():
            optimizer.set_lr(self._scales[key] * lr)

    def state_dict(self) -> dict[str, Any]:
        return {key: optimizer.state_dict() for key, optimizer in self.optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Optional[dict[str, Any]] = None) -> None:
        """Load every group's state; overrides are per group. Other keys (fairseq's "loss_scale") are ignored."""
        missing = [key for key in self.optimizers if key not in state_dict]
        if missing:
            raise ValueError(
                f"The checkpoint's optimizer state does not have group {', '.join(missing)}. It has "
                f"{', '.join(map(str, state_dict))}. Set checkpoint.reset_optimizer=true to start with new optimizer "
                "states."
            )
        for key, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[key], (optimizer_overrides or {}).get(key))


def _members(params: Iterable[Tensor], dynamic: bool) -> dict[tuple[str, str], list[Tensor]]:
    """(group name, overrides as JSON text or "") -> parameters."""
    members: dict[tuple[str, str], list[Tensor]] = {}
    for p in params:
        overrides = getattr(p, "optim_overrides", None)
        key = (getattr(p, "param_group", "default"), json.dumps(overrides, sort_keys=True) if overrides else "")
        members.setdefault(key, []).append(p)
    names = [name for name, _ in members]
    mixed = sorted({name for name in names if names.count(name) > 1})
    if mixed and not dynamic:
        raise ValueError(
            f"Parameters of group {', '.join(mixed)} have different optim_overrides. Set optimizer.dynamic_groups=true."
        )
    return members


def _check_names(used: set[str], configured: set[str]) -> None:
    if used - configured:
        raise ValueError(
            f"The model has parameters in group {', '.join(sorted(used - configured))}, which is not in "
            f"optimizer.groups ({', '.join(sorted(configured)) or 'empty'}). Add it."
        )
    if configured - used:
        raise ValueError(
            f"optimizer.groups.{', '.join(sorted(configured - used))}: no parameter of the model is in this group. "
            "Remove it, or change its pattern."
        )


def _settings(
    name: str, group_cfg: DictConfig, run_lr: Any, scale: float, weight_decay_scale: float
) -> tuple[list[float], DictConfig]:
    """Learning rates and optimizer config of a group.

    The first that is set of: the group's lr_float, its lr, its optimizer's lr, the run's lr.
    """
    if group_cfg.get("optimizer") is None or "_name" not in group_cfg.optimizer:
        raise ValueError(f"optimizer.groups.{name}.optimizer must be a config with a _name, such as adam.")
    optimizer_cfg = copy.deepcopy(group_cfg.optimizer)
    candidates = (group_cfg.get("lr_float"), group_cfg.get("lr"), optimizer_cfg.get("lr"), run_lr)
    lr = [scale * value for value in learning_rates(next(value for value in candidates if value is not None))]
    with open_dict(optimizer_cfg):
        optimizer_cfg.lr = lr
        if weight_decay_scale != 1 and "weight_decay" in optimizer_cfg:
            optimizer_cfg.weight_decay = optimizer_cfg.weight_decay * weight_decay_scale
    return lr, optimizer_cfg


class CompositeOptimizer(torch.optim.Optimizer):
    """The groups' optimizers as one torch optimizer.

    It has no state of its own, so the base class's constructor is not called.
    """

    skips_on_device = True

    def __init__(self, optimizers: dict[str, FairseqOptimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def step(
        self,
        closure: Any = None,
        found_inf: Optional[Tensor] = None,
        grad_scale: Optional[Tensor] = None,
        groups: Optional[Iterable[str]] = None,
    ) -> Any:
        """Step the optimizers of these groups, or of all."""
        loss = None if closure is None else closure()
        for key, optimizer in self.optimizers.items():
            if groups is None or key in groups:
                optimizer.step(found_inf=found_inf, grad_scale=grad_scale)
        return loss

    def sync_steps(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.sync_steps()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def __repr__(self) -> str:
        return f"CompositeOptimizer({', '.join(f'{key}: {type(o).__name__}' for key, o in self.optimizers.items())})"


class CompositeLRScheduler(FairseqLRScheduler):
    """The groups' schedules, stepped together; `lr_scheduler=pass_through` calls them."""

    def __init__(self, lr_schedulers: dict[str, FairseqLRScheduler]) -> None:
        super().__init__(None, None)
        self.lr_schedulers = lr_schedulers

    def state_dict(self) -> dict[str, Any]:
        return {key: schedule.state_dict() for key, schedule in self.lr_schedulers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, state in state_dict.items():
            self.lr_schedulers[key].load_state_dict(state)

    def step_begin_epoch(self, epoch: int) -> float:
        return self._first([schedule.step_begin_epoch(epoch) for schedule in self.lr_schedulers.values()])

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        return self._first([schedule.step(epoch, val_loss) for schedule in self.lr_schedulers.values()])

    def step_update(self, num_updates: int) -> float:
        return self._first([schedule.step_update(num_updates) for schedule in self.lr_schedulers.values()])

    def _first(self, rates: list[float]) -> float:
        """The learning rate to report: that of the group "default", or of the first group."""
        names = list(self.lr_schedulers)
        return rates[names.index("default") if "default" in names else 0]
