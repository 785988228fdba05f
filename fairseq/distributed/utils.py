"""Ranks and collectives; every function works in a single process too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_HOST_GROUP: Any = None  # over gloo, beside a first group that a device's own library carries
_BEGUN: list[Any] = []  # exchanges that nobody has waited for yet


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """This process's rank over all nodes; 0 in a single process."""
    return dist.get_rank() if is_initialized() else 0


def get_world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


get_global_rank = get_data_parallel_rank = get_rank
get_global_world_size = get_data_parallel_world_size = get_world_size


def get_data_parallel_group() -> Any:
    """The group that gradients are reduced over: all processes (None names it)."""
    return None


def open_host_group(timeout: timedelta | None = None) -> None:
    """After init_process_group, on every process: where that is not over gloo, a second group that is.

    Objects and whole numbers go over it. Devices' libraries want their own tensors, and Gaudi's sends integers as
    float32, which is exact to 2^24 only; besides, what is on the host need not wait for the device.
    """
    global _HOST_GROUP
    _HOST_GROUP = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=timeout)


def close_groups(together: bool) -> None:
    """At the end of the run, on every process.

    Args:
        together: all processes came to the same end. They then wait for each other, and for what they began and never
            asked for: a group that is destroyed with an exchange on its way can abort its process.
    """
    global _HOST_GROUP
    if together:
        for work in _BEGUN:
            work.wait()
        barrier()
    _BEGUN.clear()
    _HOST_GROUP = None
    dist.destroy_process_group()


def is_master(cfg: Any = None) -> bool:
    """Whether this process writes checkpoints and prints; fairseq's argument is taken and not needed."""
    return get_rank() == 0


def all_reduce(tensor: Tensor, op: str = "sum", async_op: bool = False) -> Any:
    """Reduce a tensor in place over all processes. Integers go by way of the host, which waits for the device.

    Args:
        op: `sum`, `max` or `min` (no average: not every backend has one).
        async_op: return a handle to wait for instead of the tensor; None in a single process.
    Raises:
        ValueError: another `op`.
    """
    ops = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
    if op not in ops:
        raise ValueError(f"op is {op!r}; it may be sum, max or min")
    if get_world_size() == 1:
        return None if async_op else tensor
    if _HOST_GROUP is not None and not tensor.is_floating_point():
        on_host = tensor.cpu()
        dist.all_reduce(on_host, op=ops[op], group=_HOST_GROUP)
        tensor.copy_(on_host)
        return _Done() if async_op else tensor
    work = dist.all_reduce(tensor, op=ops[op], async_op=async_op)
    return work if async_op else tensor


class _Done:
    """The handle of a reduction that has ended."""

    def wait(self) -> None:
        return


def sum_on_host(numbers: Sequence[float]) -> list[float]:
    """Sums over all processes of numbers that the host knows, in float64: whole numbers are exact to 2^53, and no
    device is asked.
    """
    if get_world_size() == 1:
        return [float(number) for number in numbers]
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums, group=_HOST_GROUP)
    return sums.tolist()


def begin_max_on_host(number: float) -> Callable[[], float]:
    """Begin to look for the largest of all processes' numbers; the result waits for the slowest process's
    beginning, for no device.
    """
    largest = torch.tensor(number, dtype=torch.float64)
    if get_world_size() == 1:
        return largest.item
    work = dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_HOST_GROUP, async_op=True)
    _BEGUN.append(work)

    def finish() -> float:
        if work in _BEGUN:
            _BEGUN.remove(work)
            work.wait()
        return largest.item()

    return finish


def all_gather_list(data: Any, group: Any = None, max_size: int | None = None) -> list[Any]:
    """Every process's picklable object, by rank."""
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data, group=group or _HOST_GROUP)
    return gathered


def broadcast_object(obj: Any, src_rank: int = 0, group: Any = None) -> Any:
    """The object that process `src_rank` passes, on every process."""
    if get_world_size() == 1:
        return obj
    holder = [obj]
    dist.broadcast_object_list(holder, src=src_rank, group=group or _HOST_GROUP)
    return holder[0]


def barrier() -> None:
    """Wait for all processes, on the host: what their devices have yet to do is not waited for."""
    if get_world_size() > 1:
        dist.barrier(group=_HOST_GROUP)


def same_everywhere(tensor: Tensor) -> bool:
    """Whether a small tensor has equal values on all processes (waits for the device)."""
    low, high = tensor.clone(), tensor.clone()
    all_reduce(low, "min")
    all_reduce(high, "max")
    return bool(torch.equal(low, high))
