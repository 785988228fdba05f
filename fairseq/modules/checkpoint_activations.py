"""Activation checkpointing: recompute a layer's inside in backward instead of keeping it."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_wrapper(module: nn.Module) -> nn.Module:
    """Make `module` recompute its activations in backward; parameter names stay as they are.

    The random state is put back for the recomputation, so dropout falls on the same places. In evaluation the forward runs as it was.
    """
    module.precheckpoint_forward = module.forward
    module.forward = functools.partial(_recomputing_forward, module.forward)  # a partial of a method: a deep copy calls the copy's
    return module


def unwrap_checkpoint(module: nn.Module) -> nn.Module:
    """Undo `checkpoint_wrapper` in a module and all it contains."""
    for part in module.modules():
        if hasattr(part, "precheckpoint_forward"):
            part.forward = part.precheckpoint_forward
            del part.precheckpoint_forward
    return module


def _recomputing_forward(forward: MethodType, *args: Any, **kwargs: Any) -> Any:
    if not forward.__self__.training:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)
