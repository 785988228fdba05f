"""Tensors of which each process holds a shard (torch's DTensor), and the plain tensors inside and around them.

Every function also accepts plain tensors, which all processes hold whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairseq import utils

T = TypeVar("T")


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a shard of the tensor: whether it is a DTensor."""
    return hasattr(tensor, "to_local")  # importing DTensor takes longer than most commands run


@torch.no_grad()
def plain(tensor: Tensor) -> Tensor:
    """Return this process's shard as a plain tensor, which shares the memory; a plain tensor is returned unchanged."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


@torch.no_grad()
def shard_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a whole tensor, plain, on the same device; without communication.

    It is a copy, unless it is the whole tensor: the memory of `whole` can be freed.

    Args:
        like: a sharded tensor of the same shape, whose layout the shard gets.
    """
    layout: Any = like
    (placement,) = layout.placements
    if not placement.is_shard():
        return whole
    chunks = whole.chunk(layout.device_mesh.size(), placement.dim)
    rank = layout.device_mesh.get_local_rank()
    part = chunks[rank] if rank < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return part.clone(memory_format=torch.contiguous_format)


def as_shard(local: Tensor, like: Tensor) -> Tensor:
    """Return a DTensor with this process's shard `local`, in the layout of another DTensor of the same shape."""
    from torch.distributed.tensor import DTensor

    layout: Any = like
    # not DTensor.from_local, which moves an offloaded shard to the mesh's device
    return DTensor(local, layout._spec, requires_grad=False)


def sharded_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as `like` holds it: this process's shard as a DTensor, or unchanged if `like` is plain."""
    if not is_sharded(like) or is_sharded(whole) or whole.shape != like.shape:
        return whole  # another shape: the model's or the optimizer's check names it
    return as_shard(shard_of(whole, like), like)


@torch.no_grad()
def over_parameters(
    state: dict[str, Any], params: Sequence[T], change: Callable[[Tensor, T], Tensor]
) -> dict[str, Any]:
    """Change the tensors of an optimizer's state dict that have a parameter's shape.

    Args:
        state: torch's form (`state`: parameter number -> entry, `param_groups`), or a dict of several such.
        params: something for each parameter, in the optimizer's order.
        change: called with a tensor of at least one dimension and its parameter's item of `params`.
    Returns:
        a new dict; the one given is not changed. Tensors are passed one at a time, in order.
    """
    if "param_groups" not in state:
        found, begin = {}, 0
        for name, part in state.items():
            is_part = isinstance(part, dict) and "param_groups" in part
            number = sum(len(group["params"]) for group in part["param_groups"]) if is_part else 0
            found[name] = over_parameters(part, params[begin : begin + number], change) if is_part else part
            begin += number
        return found

    def changed(index: int, value: object) -> object:
        if isinstance(value, Tensor) and value.dim() > 0 and index < len(params):
            return change(value, params[index])
        return value

    entries = {
        index: {name: changed(index, value) for name, value in entry.items()} for index, entry in state["state"].items()
    }
    return {**state, "state": entries}


def squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of all elements of this process's plain tensors, 0-dim float32."""
    return utils.total_norm(tensors).square()
