"""How the processes of a run share one model: wrapping it, exchanging gradients, and collecting or cutting the state.

A strategy is chosen once, by the trainer. Everything else (the order of an update, what a checkpoint holds, how files
are written) is the same for all of them.
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
    """What a run asks of the way its processes share the model.

    After an update's last backward pass, a parameter's `.grad` holds the mean over the processes of what each of them
    added up over its micro-batches: whole, or this process's part. `training.gradients.prepare` relies on the mean.

    Methods marked "together" exchange between processes, so all of them must call it at the same point of the run.
    """

    holds_all: bool
    """Every process holds whole weights, gradients and optimizer state. A process can then save without the others,
    and kernels that compute over all gradients at once may be used."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the criterion calls it (together). Call it once, before the optimizer is built: the parameters
        of `model` may be other tensors afterwards.
        """
        ...

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        """Within, backward passes exchange gradients if `now`, else they only add to this process's own. `now` is true
        for the last micro-batch of an update.
        """
        ...

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """L2 norm over all elements of all gradients of the model, 0-dim float32 on the device (together).

        Args:
            gradients: this process's, exchanged; whole or parts.
        """
        ...

    def gather(self, state: dict[str, Any], wanted: bool) -> dict[str, Any] | None:
        """The whole state on the CPU, on the process that writes checkpoints; None on the others (together).

        Args:
            state: this process's, of nested containers; its tensors may be parts.
            wanted: the process that writes has a use for it; what the others say does not matter. Where it does not,
                nothing is copied.
        """
        ...

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """This process's parts of whole tensors, laid out as those of the same names in `like`; names that `like`
        lacks stay whole, and names and shapes are checked by whoever loads them.
        """
        ...

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        """The same for an optimizer's state dict.

        Args:
            params: this process's parts of the parameters, in the optimizer's order.
        """
        ...


def choose(training: DistributedTrainingConfig, device: Device) -> Strategy:
    """The strategy that `distributed_training.ddp_backend` names. `c10d`, `pytorch_ddp`, `no_c10d` and `legacy_ddp` all
    mean DistributedDataParallel; the config's check refuses the others.
    """
    return DataParallel(training, device)


class DataParallel:
    """Every process holds the whole model; gradients are exchanged by torch's DistributedDataParallel. A single process
    needs no wrapper.
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
        """Asks no other process: a checkpoint is written whatever became of them."""
        return utils.apply_to_sample(lambda tensor: tensor.detach().cpu(), state) if wanted else None

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return whole

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return whole


class ModuleProxyWrapper(nn.Module):
    """A wrapped model that still answers for the attributes of the model inside, as criterions expect.

    Source: fairseq/distributed/module_proxy_wrapper.py names and purpose.
    """

    def __init__(self, wrapped: nn.Module) -> None:
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
        """Backward passes inside leave gradients unreduced."""
        return self.wrapped.no_sync()


_DDP_KEYS = ("bucket_cap_mb", "find_unused_parameters", "gradient_as_bucket_view", "broadcast_buffers")


def distribute(model: nn.Module, cfg: DistributedTrainingConfig, device_options: dict[str, Any]) -> ModuleProxyWrapper:
    """torch's DistributedDataParallel over all processes, behind fairseq's attribute access.

    Args:
        device_options: what the device layer wants, where the config keeps to its defaults.
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
