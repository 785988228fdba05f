"""Every process holds the whole model, and torch's DistributedDataParallel exchanges gradients."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from fairseq import utils
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.device import Device
from fairseq.distributed.utils import get_world_size


class Replicas:
    """The part of a strategy that is the same whenever every process holds the whole model."""

    holds_all = True
    keeps_gradients = False

    def __init__(self, training: DistributedTrainingConfig, device: Device) -> None:
        self._training = training
        self._device = device

    def place(self, model: nn.Module) -> nn.Module:
        return model.to(self._device.torch_device)

    def trained(self, model: nn.Module) -> list[Tensor]:
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return utils.total_norm(gradients)

    def optimizer_state(self, state: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return state

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return whole

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        return whole


class DataParallel(Replicas):
    """torch's DistributedDataParallel: gradients are exchanged in buckets during the last backward pass.

    A single process needs no wrapper.
    """

    name = "pytorch_ddp"

    def __init__(self, training: DistributedTrainingConfig, device: Device) -> None:
        super().__init__(training, device)
        self._wrapped: ModuleProxyWrapper | None = None

    @property
    def needs_static_graph(self) -> bool:
        """DDP waits for the gradients of all parameters."""
        return get_world_size() > 1

    def wrap(self, model: nn.Module) -> nn.Module:
        if get_world_size() == 1:
            return model
        self._wrapped = distribute(model, self._training, self._device.ddp_options())
        return self._wrapped

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        if self._wrapped is None or now:
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def reduce(self, params: Sequence[Tensor]) -> None:
        """Nothing: the last backward pass has exchanged the gradients."""


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


def ddp_settings(cfg: DistributedTrainingConfig, device_options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of DistributedDataParallel: the config's, or where they have their defaults, the device's."""
    defaults = DistributedTrainingConfig.field_defaults()
    chosen = {
        key: getattr(cfg, key) for key in _DDP_KEYS if key not in device_options or getattr(cfg, key) != defaults[key]
    }
    return {**device_options, **chosen}


def distribute(model: nn.Module, cfg: DistributedTrainingConfig, device_options: dict[str, Any]) -> ModuleProxyWrapper:
    """Wrap a model in torch's DistributedDataParallel over all processes, with fairseq's attribute access.

    Args:
        device_options: the device's options, for keys that the config leaves at their defaults.
    """
    options = ddp_settings(cfg, device_options)
    ddp = nn.parallel.DistributedDataParallel
    if "forward_sync_buffers" in inspect.signature(ddp).parameters:  # the key's name from torch 2.13 on
        options["forward_sync_buffers"] = options.pop("broadcast_buffers")
    wrapped = ddp(model, **options)
    if cfg.ddp_comm_hook != "none":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks  # imports much of torch.distributed

        hook = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
        wrapped.register_comm_hook(None, hook[str(cfg.ddp_comm_hook)])
    return ModuleProxyWrapper(wrapped)
