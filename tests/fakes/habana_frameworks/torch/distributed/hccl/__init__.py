"""The collective backend `hccl`, over gloo: it has no average, and sends all but fp32 and bf16 as fp32."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import habana_frameworks.torch  # noqa: F401 - registers the device
from habana_frameworks import recorder

_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ID", "HLS_MODULE_ID")
_at_import = {name: os.environ.get(name) for name in _RANK_VARIABLES}
_torch_init = dist.init_process_group


class ProcessGroupHccl(dist.ProcessGroup):
    """gloo with HCCL's restrictions."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> None:
        super().__init__(rank, world_size)
        self._gloo = dist.ProcessGroupGloo(store, rank, world_size, timeout)

    def getBackendName(self) -> str:
        return "hccl"

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:
        tensors = [tensors] if isinstance(tensors, Tensor) else tensors
        opts = dist.AllreduceOptions() if opts is None else opts
        (tensor,) = tensors
        recorder.note(
            "allreduce", dtype=str(tensor.dtype), numel=tensor.numel(), asynchronous=getattr(opts, "asyncOp", None)
        )
        if opts.reduceOp == dist.ReduceOp.AVG:
            raise RuntimeError("HCCL has no ReduceOp.AVG")
        if tensor.dtype in (torch.float32, torch.bfloat16):
            return self._gloo.allreduce(tensors, opts)
        as_float = tensor.float()
        work = self._gloo.allreduce([as_float], opts)
        work.wait()
        tensor.copy_(as_float)
        return work

    def broadcast(self, tensors: Any, opts: Any = None) -> Any:
        recorder.note("broadcast")
        return self._gloo.broadcast(tensors, dist.BroadcastOptions() if opts is None else opts)

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> Any:
        recorder.note("allgather")
        return self._gloo.allgather(outputs, inputs, dist.AllgatherOptions() if opts is None else opts)

    def barrier(self, opts: Any = None) -> Any:
        recorder.note("barrier")
        return self._gloo.barrier(dist.BarrierOptions() if opts is None else opts)


def _create(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> Any:
    # torch keeps this function even if a test's fixture imports this module again
    from habana_frameworks.torch.distributed import hccl

    return hccl.ProcessGroupHccl(store, rank, world_size, timeout)


def init_process_group(
    backend: str,
    init_method: str | None = None,
    timeout: timedelta = timedelta(minutes=30),
    world_size: int = -1,
    rank: int = -1,
    store: dist.Store | None = None,
    group_name: str = "",
    pg_options: Any = None,
) -> None:
    """Have the signature of 1.19, where newer keywords of torch's raise TypeError too."""
    recorder.note("init_process_group", backend=backend, world_size=world_size, rank=rank)
    missing = [name for name, value in _at_import.items() if value is None]
    if backend == "hccl" and missing:
        raise RuntimeError(
            f"{', '.join(missing)} must be set before habana_frameworks.torch.distributed.hccl is imported"
        )
    _torch_init(backend, init_method, timeout, world_size, rank, store, group_name, pg_options)


def initialize_distributed_hpu(
    world_size: int | None = None, rank: int | None = None, local_rank: int | None = None
) -> tuple[int, int, int]:
    return tuple(int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))


if not hasattr(dist.Backend, "HCCL"):
    dist.Backend.register_backend("hccl", _create, devices=["cpu", "hpu"])
dist.init_process_group = init_process_group
