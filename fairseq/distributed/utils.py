"""Ranks and collectives. Every function also works in a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_HOST_GROUP: Any = None  # a gloo group, if the default group uses a device's library
_BEGUN: list[Any] = []  # exchanges in flight


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return this process's rank over all nodes; 0 in a single process."""
    return dist.get_rank() if is_initialized() else 0


def get_world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


get_global_rank = get_data_parallel_rank = get_rank
get_global_world_size = get_data_parallel_world_size = get_world_size


def get_data_parallel_group() -> Any:
    """Return the group that gradients are reduced over: None, which means all processes."""
    return None


def open_host_group(timeout: timedelta | None = None) -> None:
    """Create a gloo group if the default group uses another backend; call it on every process.

    Objects and integers are exchanged over it: devices' libraries accept only their own tensors, and Gaudi's sends
    integers as float32, which is exact only to 2^24. Exchanges on the host also do not wait for the device.
    """
    global _HOST_GROUP
    _HOST_GROUP = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=timeout)


def open_saving_group(timeout: timedelta) -> dist.ProcessGroup | None:
    """Create a gloo group for exchanges on another thread; call it on every process. None in a single process.

    Exchanges of two threads over one group could be mistaken for each other.
    """
    if get_world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "without ranks, every process is a member"
    return group


def close_groups(together: bool) -> None:
    """Destroy the groups at the end of the run; call it on every process.

    Args:
        together: all processes ended normally. They then wait for each other and for exchanges in flight, because
            destroying a group with one in flight can abort the process.
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
    """Whether this process writes checkpoints and logs; `cfg` is fairseq's argument and is ignored."""
    return get_rank() == 0


def all_reduce(tensor: Tensor, op: str = "sum", async_op: bool = False) -> Any:
    """Reduce a tensor in place over all processes. Integers are reduced on the host, which waits for the device.

    Args:
        op: `sum`, `max` or `min` (not every backend has an average).
        async_op: return a handle to wait for instead of the tensor; None in a single process.
    Raises:
        ValueError: unknown `op`.
    """
    ops = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
    if op not in ops:
        raise ValueError(f"op is {op!r}, but must be one of: sum, max, min.")
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
    """The handle of a finished reduction."""

    def wait(self) -> None:
        return


def sum_on_host(numbers: Sequence[float]) -> list[float]:
    """Sum numbers over all processes on the host, in float64 (integers are exact to 2^53), without the device."""
    if get_world_size() == 1:
        return [float(number) for number in numbers]
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums, group=_HOST_GROUP)
    return sums.tolist()


def gather_on_host(numbers: Sequence[float]) -> list[list[float]]:
    """Return every process's numbers, by rank, exchanged on the host as float64, without the device."""
    world_size = get_world_size()
    if world_size == 1:
        return [list(map(float, numbers))]
    table = torch.zeros(world_size, len(numbers), dtype=torch.float64)
    table[get_rank()] = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(table, group=_HOST_GROUP)
    return table.tolist()


def begin_max_on_host(number: float) -> Callable[[], float]:
    """Start a maximum over all processes on the host.

    Returns:
        a function that waits until every process has started it, but not for devices, and returns the maximum.
    """
    largest = torch.tensor(number, dtype=torch.float64)
    if get_world_size() == 1:
        return largest.item
    work = dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_HOST_GROUP, async_op=True)
    assert work is not None, "all_reduce(async_op=True) returns a handle on every process of the group"
    _BEGUN.append(work)

    def finish() -> float:
        if work in _BEGUN:
            _BEGUN.remove(work)
            work.wait()
        return largest.item()

    return finish


def all_gather_list(data: Any, group: Any = None, max_size: int | None = None) -> list[Any]:
    """Return every process's picklable object, by rank."""
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data, group=group or _HOST_GROUP)
    return gathered


def broadcast_object(obj: Any, src_rank: int = 0, group: Any = None) -> Any:
    """Return the object of rank `src_rank` on every process."""
    if get_world_size() == 1:
        return obj
    holder = [obj]
    dist.broadcast_object_list(holder, src=src_rank, group=group or _HOST_GROUP)
    return holder[0]


def barrier() -> None:
    """Wait for all processes on the host, but not for work in flight on their devices."""
    if get_world_size() > 1:
        dist.barrier(group=_HOST_GROUP)


def same_everywhere(tensor: Tensor) -> bool:
    """Whether a small tensor has equal values on all processes (waits for the device)."""
    low, high = tensor.clone(), tensor.clone()
    all_reduce(low, "min")
    all_reduce(high, "max")
    return bool(torch.equal(low, high))


def require_same_model(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check that all processes have tensors of the same names and shapes, on the host.

    Raises:
        RuntimeError: they have not.
    """
    shapes = all_gather_list([(name, tuple(tensor.shape)) for name, tensor in named])
    if any(other != shapes[0] for other in shapes):
        raise RuntimeError("the processes of this run have built different models. Start all with the same config.")
