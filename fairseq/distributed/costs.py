"""What a strategy costs a process: bytes held and bytes exchanged, for any number of processes, by arithmetic.

Works on models on torch's meta device too, so the costs on 256 cards are known without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed import flat
from fairseq.distributed.fully_sharded import FullySharded, parts_of, shard_dim

ADAM_STATES = 2  # tensors per parameter


class Weight(NamedTuple):
    """One parameter of a model."""

    shape: torch.Size
    element_size: int  # bytes
    is_trained: bool
    part: int | None  # number of the part that it is gathered with (`fully_sharded.parts_of`); None: the rest

    @property
    def bytes(self) -> int:
        return self.shape.numel() * self.element_size

    def shard_bytes(self, world_size: int) -> int:
        """Bytes of the largest shard, which rank 0 has."""
        if not self.shape or world_size == 1:
            return self.bytes
        rows = self.shape[shard_dim(self.shape, world_size)]
        return self.bytes // max(1, rows) * math.ceil(rows / world_size)


class Costs(NamedTuple):
    """Bytes of one process; the largest, where processes differ."""

    parameters: int
    gradients: int  # kept until the update's end
    optimizer: int  # its averages
    average: int  # of the weights (`ema`)
    buffers: int  # for the exchange, all the time
    gathered: int  # at most, during a step: whole weights and gradients of the parts in use
    exchanged: int  # sent in an update, as by a ring
    offloaded: bool  # parameters, gradients and the optimizer's averages are on the host

    @property
    def on_device(self) -> int:
        """Bytes on the device, without activations."""
        held = 0 if self.offloaded else self.parameters + self.gradients + self.optimizer
        return held + (0 if self.offloaded else self.average) + self.buffers + self.gathered

    def __str__(self) -> str:
        named = {
            "weights": self.parameters,
            "gradients": self.gradients,
            "optimizer state": self.optimizer,
            "averaged weights": self.average,
            "exchange buffers": self.buffers,
        }
        held = ", ".join(f"{name} {in_words(number)}" for name, number in named.items() if number)
        place = " (on the host)" if self.offloaded else ""
        gathered = f"; gathers up to {in_words(self.gathered)} at a time" if self.gathered else ""
        sends = f"; sends {in_words(self.exchanged)} per update" if self.exchanged else ""
        return f"each process holds {held}{place}{gathered}{sends}"


def in_words(number: int) -> str:
    """A number of bytes in GB or MB (2^30, 2^20)."""
    return f"{number / 2**30:.2f} GB" if number >= 2**30 else f"{number / 2**20:.2f} MB"


def weights_of(model: nn.Module) -> list[Weight]:
    """Return the parameters of a model, which may be sharded, or on the meta device."""
    part_of = {id(p): number for number, part in enumerate(parts_of(model)) for p in part.parameters()}
    return [Weight(p.shape, p.element_size(), p.requires_grad, part_of.get(id(p))) for p in model.parameters()]


def costs(
    weights: Sequence[Weight],
    training: DistributedTrainingConfig,
    world_size: int,
    update_freq: int = 1,
    averages: bool = False,
    bucket_view: bool = False,
    keeps_casts: bool = False,
    optimizer_states: int = ADAM_STATES,
) -> Costs:
    """Compute the costs of the strategy in `distributed_training.ddp_backend`.

    Args:
        weights: of the model, from `weights_of`.
        training: `distributed_training`, for its keys of strategies; its number of processes is ignored.
        world_size: number of processes.
        update_freq: micro-batches per update and process.
        averages: a running average of the weights is kept (`ema.store_ema`).
        bucket_view: DDP's gradients are views of its buckets (`data_parallel.ddp_settings`).
        keeps_casts: autocast's half-precision copies of gathered weights stay until the backward pass, because
            activations are not recomputed.
        optimizer_states: tensors that the optimizer keeps per parameter.
    """
    if training.ddp_backend == FullySharded.name and world_size > 1:
        sharded = _sharded(weights, training, world_size, update_freq, averages, optimizer_states)
        casts = sum(weight.bytes for weight in weights) // 2 if keeps_casts else 0
        return sharded._replace(gathered=sharded.gathered + casts)
    everything = sum(weight.bytes for weight in weights)
    trained = sum(weight.bytes for weight in weights if weight.is_trained)
    halved = training.ddp_comm_hook != "none"
    buffers = exchanged = 0
    if world_size > 1:
        exchanged = 2 * trained * (world_size - 1) // world_size // (2 if halved else 1)
        if training.ddp_backend == flat.Flat.name:
            buffers = min(trained, flat.MAX_BYTES) // 2 if halved else 0
        else:
            buffers = 0 if bucket_view else trained
    average = everything if averages else 0
    return Costs(everything, trained, optimizer_states * trained, average, buffers, 0, exchanged, False)


def _sharded(
    weights: Sequence[Weight],
    training: DistributedTrainingConfig,
    world_size: int,
    update_freq: int,
    averages: bool,
    optimizer_states: int,
) -> Costs:
    everything = sum(weight.bytes for weight in weights)
    trained = sum(weight.bytes for weight in weights if weight.is_trained)
    shards = sum(weight.shard_bytes(world_size) for weight in weights)
    trained_shards = sum(weight.shard_bytes(world_size) for weight in weights if weight.is_trained)
    parts: dict[int | None, int] = {}
    for weight in weights:
        parts[weight.part] = parts.get(weight.part, 0) + weight.bytes
    rest = parts.pop(None, 0)  # gathered from the beginning of the forward pass to the end of the backward pass
    largest = max(parts.values(), default=0)
    keeps = training.no_reshard_after_forward
    # a part, the next one, which is gathered meanwhile, and the part's gradients
    gathered = (everything if keeps else rest + min(2, len(parts)) * largest) + max(largest, rest)
    # micro-batches before the last one accumulate whole gradients (`no_sync`)
    gradients = trained_shards + (trained if update_freq > 1 else 0)
    per_micro_batch = everything if keeps else 2 * everything - rest
    exchanged = (update_freq * per_micro_batch + trained) * (world_size - 1) // world_size
    return Costs(
        shards,
        gradients,
        optimizer_states * trained_shards,
        shards if averages else 0,
        0,
        gathered,
        exchanged,
        training.cpu_offload,
    )
