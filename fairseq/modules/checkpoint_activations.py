"""Activation checkpointing: recompute a layer's activations in the backward pass instead of storing them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq import device as device_layer
from fairseq import utils
from fairseq.device import Device


def checkpoint_wrapper(module: nn.Module) -> nn.Module:
    """Make `module` recompute its activations in the backward pass; parameter names do not change.

    The recomputation has the same dropout masks. Either the random state is restored, or, where operations are
    recorded, the module has its own seed and graphs (in a graph with the first computation, a compiler would remove the
    second one as redundant and store the activations). Recorded graphs that are replayed draw new seeds each time, so
    the config check rejects `common.hpu_compile` with activation checkpointing. Evaluation is unchanged.
    """
    before = cast(MethodType, module.forward)
    # a partial of a method: a deep copy calls the copy's
    vars(module).update(precheckpoint_forward=before, forward=functools.partial(_recomputing_forward, before))
    return module


def unwrap_checkpoint(module: nn.Module) -> nn.Module:
    """Undo `checkpoint_wrapper` in a module and all it contains."""
    for part in module.modules():
        if hasattr(part, "precheckpoint_forward"):
            vars(part)["forward"] = vars(part).pop("precheckpoint_forward")
    return module


def _recomputing_forward(forward: MethodType, *args: Any, **kwargs: Any) -> Any:
    module = forward.__self__
    assert isinstance(module, nn.Module)
    if not module.training:
        return forward(*args, **kwargs)
    tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    # hpu: torch's lazy device draws numbers when a graph runs, so the random state read here is not the one they use.
    # The bridge draws a seed per operator when it is recorded: the same seed before both passes gives the same masks
    if utils.is_hpu_tensor(tensor):
        draws = functools.partial(_seeded, device_layer.of(tensor), utils.keyed_seed(torch.initial_seed()))
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=draws, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)


def _seeded(device: Device, seed: int) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the computation and the recomputation."""
    return _drawing_from(device, seed), _drawing_from(device, seed)


@contextmanager
def _drawing_from(device: Device, seed: int) -> Iterator[None]:
    device.seed(seed)  # also launches the operations recorded before
    yield
