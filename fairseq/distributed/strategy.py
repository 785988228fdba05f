"""How the processes of a run share one model: wrap it, exchange gradients, gather and shard its state.

The trainer chooses a strategy once. Everything else (the order of an update, the content of checkpoints, writing files)
is the same for all strategies.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from fairseq import utils
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.device import Device
from fairseq.distributed.utils import get_world_size


class Strategy(Protocol):
    """The interface through which the processes of a run share the model.

    After an update's last backward pass, a parameter's `.grad` holds the mean over processes of the gradients that each
    accumulated over its micro-batches: whole, or this process's shard. `training.gradients.prepare` relies on the mean.

    Methods marked "collective" communicate, so all processes must call them at the same point of the run.
    """

    holds_all: bool
    """Whether every process holds whole weights, gradients and optimizer state. If so, a process can save without the
    others, and kernels over all gradients can be used."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that the criterion calls (collective).

        Call it once, before the optimizer is built: it may replace the parameters of `model`.
        """
        ...

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        """Exchange gradients in backward passes inside a `with` block if `now`, else only accumulate them.

        Args:
            now: true for the last micro-batch of an update.
        """
        ...

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Compute the L2 norm over all gradients of the model, 0-dim float32 on the device (collective).

        Args:
            gradients: this process's gradients after the exchange; whole or shards.
        """
        ...

    def gather(self, state: dict[str, Any], wanted: bool) -> dict[str, Any] | None:
        """Gather the whole state on the CPU of rank 0; returns None on other ranks (collective).

        Args:
            state: this process's state, nested containers; its tensors may be shards.
            wanted: whether rank 0 needs the state; ignored on other ranks. If false, nothing is copied.
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
    other values.
    """
    return DataParallel(training, device)


class DataParallel:
    """Every process holds the whole model, and torch's DistributedDataParallel exchanges gradients.

    A single process needs no wrapper.
    """

    holds_all = True

    def __init__(self, training: DistributedTrainingConfig, device: Device) -> None:
        self._training = training
        self._device = device
        self._wrapped: ModuleProxyWrapper | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        if get_world_size() == 1:
            return model
        self._wrapped = distribute(model, self._training, self._device.ddp_options())
        return self._wrapped

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        if self._wrapped is None or now:
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return utils.total_norm(gradients)

    def gather(self, state: dict[str, Any], wanted: bool) -> dict[str, Any] | None:
        """Copy the state without communication, so that rank 0 can save even if other ranks have failed."""
        return utils.apply_to_sample(lambda tensor: tensor.detach().cpu(), state) if wanted else None

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return whole

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return whole


class ModuleProxyWrapper(nn.Module):
    """A wrapped model that forwards attribute access to the model inside, as criterions expect.

    Source: names and purpose from fairseq/distributed/module_proxy_wrapper.py.
    """

    wrapped: nn.parallel.DistributedDataParallel

    def __init__(self, wrapped: nn.parallel.DistributedDataParallel) -> None:
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.wrapped.module, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapped(*args, **kwargs)

    def no_sync(self) -> AbstractContextManager[None]:
        """Do not reduce gradients in backward passes inside a `with` block."""
        return self.wrapped.no_sync()


_DDP_KEYS = ("bucket_cap_mb", "find_unused_parameters", "gradient_as_bucket_view", "broadcast_buffers")


def distribute(model: nn.Module, cfg: DistributedTrainingConfig, device_options: dict[str, Any]) -> ModuleProxyWrapper:
    """Wrap a model in torch's DistributedDataParallel over all processes, with fairseq's attribute access.

    Args:
        device_options: the device's options, for keys that the config leaves at their defaults.
    """
    defaults = DistributedTrainingConfig.field_defaults()
    chosen = {
        key: getattr(cfg, key) for key in _DDP_KEYS if key not in device_options or getattr(cfg, key) != defaults[key]
    }
    options = {**device_options, **chosen}
    ddp = nn.parallel.DistributedDataParallel
    if "forward_sync_buffers" in inspect.signature(ddp).parameters:  # the key's name from torch 2.13 on
        options["forward_sync_buffers"] = options.pop("broadcast_buffers")
    return ModuleProxyWrapper(ddp(model, **options))
