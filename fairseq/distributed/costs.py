"""What a strategy costs each process: bytes that it holds, and bytes that it sends in an update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from fairseq.dataclass.configs import DistributedTrainingConfig

STRATEGIES = ("pytorch_ddp", "flat", "fully_sharded")
_SENT = {"fp16": 0.5, "bf16": 0.5}  # ddp_comm_hook: share of a gradient's bytes that is sent
_FLAT_BUFFER = 256 * 2**20  # bytes of gradients that `flat` converts at a time


class Sizes(NamedTuple):
    """Bytes of a whole model in training, before anything is shared out."""

    parameters: int
    gradients: int  # as many as there are trained parameters
    optimizer: int
    average: int  # the running average's copy; 0 without one
    largest_block: int  # parameters of the largest transformer or conformer block
    outside: int  # parameters outside of blocks

    @classmethod
    def of(cls, model: nn.Module, blocks: Iterable[nn.Module], optimizer_share: float, averaged: bool) -> Sizes:
        """Count a model's bytes; the model can be on the meta device.

        Args:
            blocks: the transformer or conformer blocks.
            optimizer_share: bytes of optimizer state per byte of trained parameters.
            averaged: the run keeps a running average of the weights (`ema.store_ema`).
        """
        parameters = _bytes(model)
        trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        inside = [_bytes(block) for block in blocks]
        return cls(
            parameters,
            trained,
            round(trained * optimizer_share),
            parameters if averaged else 0,
            max(inside, default=0),
            parameters - sum(inside),
        )


class Costs(NamedTuple):
    """Bytes that training costs one process, without the activations."""

    parameters: int
    gradients: int
    optimizer: int
    average: int
    buffers: int  # DDP's buckets; what fully_sharded holds whole; what a comm hook has converted
    sent: int  # in an update; as many arrive

    @property
    def held(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.average + self.buffers


def costs(
    sizes: Sizes, training: DistributedTrainingConfig, world: int, update_freq: int, strategy: str | None = None
) -> Costs:
    """Compute what one process of a run holds and sends.

    Collectives are taken to be rings: an all-reduce of N bytes sends 2 (n - 1) / n N from each of n processes, an
    all-gather or reduce-scatter half of that.

    Args:
        training: config group `distributed_training`.
        world: number of processes.
        update_freq: micro-batches per update.
        strategy: one of STRATEGIES; None: the one that `training.ddp_backend` means.
    """
    strategy = strategy or strategy_of(training)
    if strategy == "fully_sharded":
        return _fully_sharded(sizes, training, world, update_freq)
    share = _SENT.get(str(training.ddp_comm_hook), 1.0)
    buffers = 0
    if world > 1 and strategy == "flat" and share < 1:
        buffers = round(min(sizes.gradients, _FLAT_BUFFER) * share)
    elif world > 1 and strategy != "flat" and not training.gradient_as_bucket_view:
        buffers = sizes.gradients
    sent = round(2 * (world - 1) / world * sizes.gradients * share)
    return Costs(sizes.parameters, sizes.gradients, sizes.optimizer, sizes.average, buffers, sent)


def strategy_of(training: DistributedTrainingConfig) -> str:
    """The strategy that a config means: fairseq has several names for DDP."""
    return training.ddp_backend if training.ddp_backend in STRATEGIES else "pytorch_ddp"


def _fully_sharded(sizes: Sizes, training: DistributedTrainingConfig, world: int, update_freq: int) -> Costs:
    """Costs of torch's fully_shard, one unit per block.

    Weights are gathered in every micro-batch. Gradients are reduced to shards in the last one; until then, each process
    adds up whole gradients.
    """
    parameters, gradients, optimizer, average = (
        -(-size // world) for size in (sizes.parameters, sizes.gradients, sizes.optimizer, sizes.average)
    )
    if training.cpu_offload:
        parameters = gradients = optimizer = 0
    if world == 1:
        return Costs(parameters, gradients, optimizer, average, 0, 0)
    # whole: what is outside of blocks, the block that is computed, and the next one
    gathered, again = sizes.outside + 2 * sizes.largest_block, sizes.parameters - sizes.outside
    if training.no_reshard_after_forward:
        gathered, again = sizes.parameters, 0
    added_up = sizes.gradients if update_freq > 1 else sizes.outside + sizes.largest_block
    sent = round((world - 1) / world * (update_freq * (sizes.parameters + again) + sizes.gradients))
    return Costs(parameters, gradients, optimizer, average, gathered + added_up, sent)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
