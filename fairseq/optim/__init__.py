"""Optimizers: `adam`, and `composite` for parameter groups with different settings. Schedules: `lr_scheduler`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from fairseq import registry
from fairseq.optim.fairseq_optimizer import FairseqOptimizer, LegacyFairseqOptimizer

_build_optimizer, register_optimizer, OPTIMIZER_REGISTRY, OPTIMIZER_DATACLASS_REGISTRY = registry.setup_registry(
    "--optimizer", base_class=FairseqOptimizer, required=True
)


def build_optimizer(cfg: Any, params: Iterable[Tensor | dict[str, Tensor]]) -> FairseqOptimizer:
    """Build the optimizer named by `cfg._name` for those `params` that require a gradient.

    Args:
        cfg: the optimizer's config group.
        params: parameters, or dicts of parameters by name (from a criterion with its own weights).
    """
    flat: list[Tensor] = []
    for entry in params:
        flat.extend(entry.values() if isinstance(entry, dict) else [entry])
    return _build_optimizer(cfg, [p for p in flat if p.requires_grad])


from fairseq.optim import lr_scheduler  # noqa: E402, I001 - composite builds schedules too
from fairseq.optim import adam, composite  # noqa: E402

__all__ = [
    "FairseqOptimizer",
    "LegacyFairseqOptimizer",
    "adam",
    "build_optimizer",
    "composite",
    "lr_scheduler",
    "register_optimizer",
]
