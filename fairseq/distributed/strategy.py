"""How the processes of a run share one model: wrap it, exchange gradients, and shard its state.

The trainer chooses a strategy once. Everything else (the order of an update, the content of checkpoints, writing files)
is the same for all strategies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.device import Device
from fairseq.distributed.data_parallel import DataParallel, ModuleProxyWrapper, distribute
from fairseq.distributed.flat import Flat
from fairseq.distributed.fully_sharded import FullySharded, skeleton
from fairseq.distributed.utils import get_rank, get_world_size

__all__ = ["DataParallel", "Flat", "FullySharded", "ModuleProxyWrapper", "Strategy", "building", "choose", "distribute"]


class Strategy(Protocol):
    """The interface through which the processes of a run share the model.

    After an update's last backward pass, a parameter's `.grad` holds the mean over processes of the gradients that each
    accumulated over its micro-batches: whole, or this process's shard. `training.gradients.prepare` relies on the mean.

    Methods marked "collective" communicate, so all processes must call them at the same point of the run.
    """

    holds_all: bool
    """Whether every process holds whole weights, gradients and optimizer state. If so, a process can save without the
    others, and kernels over all gradients can be used."""

    keeps_gradients: bool
    """Whether gradients keep their memory between updates, so that they must be zeroed in place."""

    @property
    def name(self) -> str:
        """The value of `distributed_training.ddp_backend` that means this strategy."""
        ...

    @property
    def needs_static_graph(self) -> bool:
        """Whether all processes must run the same blocks in every pass; see `RunMode.static_graph`."""
        ...

    def place(self, model: nn.Module) -> nn.Module:
        """Move a new model to the run's device, unless `wrap` does."""
        ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that the criterion calls (collective).

        Call it once, before the optimizer is built: it may replace the parameters of `model`. Afterwards all processes
        have the weights of rank 0.
        """
        ...

    def trained(self, model: nn.Module) -> list[Tensor]:
        """Return the plain tensors that optimizer, clipping and statistics work on.

        Args:
            model: the model after `wrap`, without wrapper.
        Returns:
            The trained parameters (those with `requires_grad`) in their order, or this process's shards of them, which
            share the parameters' memory.
        """
        ...

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        """Exchange gradients in backward passes inside a `with` block if `now`, else only accumulate them.

        Args:
            now: true for the last micro-batch of an update.
        """
        ...

    def reduce(self, params: Sequence[Tensor]) -> None:
        """Leave the mean over processes in `.grad`; called once per update, after its backward passes (collective).

        Args:
            params: what `trained` returned. The same ones have gradients on all processes.
        """
        ...

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Compute the L2 norm over all gradients of the model, 0-dim float32 on the device (collective).

        Args:
            gradients: this process's gradients after the exchange; whole or shards.
        """
        ...

    def optimizer_state(self, state: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        """Return an optimizer's state dict in which shards know the whole tensors that they belong to (DTensors).

        Args:
            state: this process's; nested, if the optimizer has several parts.
            params: what `trained` returned, in the optimizer's order.
        """
        ...

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return this process's shards of whole tensors.

        Args:
            whole: tensors by name. Names and shapes are not checked here, but when the model loads them.
            like: this process's tensors, whose layout the shards get; names that it lacks stay whole.
        """
        ...

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        """Return this process's shard of an optimizer's whole state dict.

        Args:
            params: this process's shards of the parameters, in the optimizer's order.
        """
        ...


def choose(training: DistributedTrainingConfig, device: Device) -> Strategy:
    """Return the strategy for `distributed_training.ddp_backend`.

    `c10d`, `pytorch_ddp`, `no_c10d` and `legacy_ddp` all mean DistributedDataParallel; the config's validation refuses
    other values. A single process has nothing to share, whatever the key says.
    """
    if get_world_size() == 1:
        return DataParallel(training, device)
    if training.ddp_backend == FullySharded.name:
        return FullySharded(training, device)
    return Flat(training, device) if training.ddp_backend == Flat.name else DataParallel(training, device)


def building(training: DistributedTrainingConfig) -> AbstractContextManager[None]:
    """Return the context in which a run builds its model.

    If the model will be sharded, only rank 0 builds it for real, and its weights are those of an unsharded run with the
    same seed. The others build its skeleton, without memory.
    """
    if training.ddp_backend != FullySharded.name or get_rank() == 0:
        return nullcontext()
    return skeleton()
