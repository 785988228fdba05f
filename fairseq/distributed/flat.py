"""Every process holds the whole model, and gradients are exchanged once per update, in a few flat buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.device import Device
from fairseq.distributed.data_parallel import Replicas
from fairseq.distributed.utils import all_reduce, get_world_size, require_same_model

MAX_BYTES = 256 * 2**20  # of a buffer; a larger gradient has a buffer of its own
_DTYPES = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Buffer(NamedTuple):
    """Gradients that are exchanged together."""

    params: list[Tensor]
    gradients: Tensor  # 1-dim, in the gradients' dtype
    views: list[Tensor]  # of `gradients`, in the parameters' shapes


class Flat(Replicas):
    """All-reduce the gradients of a whole update after its last micro-batch.

    The model has no wrapper, so all micro-batches of an update have the same graph, and processes may skip different
    blocks (layerdrop). Made for Gaudi's lazy mode, where each collective cuts the graph.

    A parameter's gradient is a view of a buffer, so nothing is copied before or after the exchange, unless
    `distributed_training.ddp_comm_hook` asks for another dtype.
    """

    name = "flat"
    keeps_gradients = True

    def __init__(self, training: DistributedTrainingConfig, device: Device) -> None:
        super().__init__(training, device)
        self._dtype = _DTYPES[str(training.ddp_comm_hook)]
        self._buffers: list[Buffer] = []

    @property
    def needs_static_graph(self) -> bool:
        return False

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model itself, with the weights and buffers of rank 0.

        Raises:
            RuntimeError: the processes have built different models.
        """
        if get_world_size() == 1:
            return model
        named = [*model.named_parameters(), *model.named_buffers()]
        require_same_model(named)
        for _, tensor in named:
            dist.broadcast(tensor.detach(), src=0)
        return model

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    @torch.no_grad()
    def reduce(self, params: Sequence[Tensor]) -> None:
        if get_world_size() == 1:
            return
        # all processes freeze the same parameters at the same update, so they choose the same buffers
        params = [param for param in params if param.grad is not None]
        if [id(param) for buffer in self._buffers for param in buffer.params] != list(map(id, params)):
            self._buffers = list(_buffers_of(params))
        for buffer in self._buffers:
            for param, view in zip(buffer.params, buffer.views, strict=True):
                if param.grad is not view:  # the first update, or one after a parameter was frozen
                    assert param.grad is not None
                    view.copy_(param.grad)
                    param.grad = view
            # divided before the sum, as in DDP: fp16 could overflow
            buffer.gradients.div_(get_world_size())
            if self._dtype is None:
                all_reduce(buffer.gradients)
            else:
                buffer.gradients.copy_(all_reduce(buffer.gradients.to(self._dtype)))


def _buffers_of(params: Sequence[Tensor]) -> Iterator[Buffer]:
    """Make buffers for parameters, in their order, each of one dtype and device and at most MAX_BYTES."""
    waiting: list[Tensor] = []
    for param in params:
        first = waiting[0] if waiting else param
        size = sum(other.numel() for other in waiting) + param.numel()
        differs = (first.dtype, first.device) != (param.dtype, param.device)
        if waiting and (differs or size * param.element_size() > MAX_BYTES):
            yield _buffer(waiting)
            waiting = []
        waiting.append(param)
    if waiting:
        yield _buffer(waiting)


def _buffer(params: list[Tensor]) -> Buffer:
    gradients = torch.empty(sum(param.numel() for param in params), dtype=params[0].dtype, device=params[0].device)
    views = [
        part.view(param.shape)
        for part, param in zip(gradients.split([param.numel() for param in params]), params, strict=True)
    ]
    return Buffer(params, gradients, views)
