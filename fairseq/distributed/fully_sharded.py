"""Each process holds a shard of every weight, gradient and optimizer state: torch's `fully_shard` (FSDP2)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.device import Device
from fairseq.distributed import sharding, utils

logger = logging.getLogger(__name__)

# methods besides `forward` that compute with parameters of the whole model
_OTHER_FORWARDS = ("quantize", "latents", "project_latents")


@runtime_checkable
class HasParts(Protocol):
    """A module with parts whose parameters are gathered together when the part runs, and then freed again."""

    def sharded_parts(self) -> list[nn.Module]:
        """Return modules that do not overlap and are only used by calling them; what is left is gathered as one."""
        ...


def parts_of(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model that are gathered one at a time, without the rest of the model."""
    return [part for module in model.modules() if isinstance(module, HasParts) for part in module.sharded_parts()]


def shard_dim(shape: torch.Size, world_size: int) -> int:
    """Return the dimension along which a tensor is sharded.

    The first, unless it has fewer rows than there are processes (the codebook and weight norm's gains have one) and
    another can be divided evenly, which torch requires of others than the first.
    """
    if shape[0] >= world_size:
        return 0
    return next((dim for dim, size in enumerate(shape) if size % world_size == 0), 0)


@contextmanager
def skeleton() -> Iterator[None]:
    """Build a model without memory: its tensors have shapes, but no values (torch's meta device)."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
        yield


class FullySharded:
    """Shard weights, gradients and optimizer state evenly over all processes.

    A part's weights are gathered before it runs, forward and backward, and freed afterwards. The optimizer works on
    plain tensors, the local shards of the parameters (DTensors).

    Parameters and reductions are fp32; computations run in the dtype of autocast, as with the other strategies.
    """

    name = "fully_sharded"
    holds_all = False
    keeps_gradients = False
    needs_static_graph = True  # a part that one process skips would leave the others waiting for its weights

    def __init__(self, training: DistributedTrainingConfig, device: Device) -> None:
        self._training = training
        self._device = device
        self._model: Any = None
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []  # trained parameters, and their local shards

    def place(self, model: nn.Module) -> nn.Module:
        """Leave the model where it is: `wrap` moves one part at a time, so that it need not fit on the device."""
        return model

    # -- wrapping ------------------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """Shard the model in place, with the weights of rank 0.

        Args:
            model: built for real on rank 0; other processes can have built it in `skeleton`.
        Raises:
            RuntimeError: the processes have built different models, or a module has tensors that are not buffers.
        """
        # copies of gathered weights in half precision would stay until the end of the forward pass
        torch.set_autocast_cache_enabled(False)
        attributes = [dict(vars(parameter)) for parameter in model.parameters() if parameter.requires_grad]
        named = [*model.named_parameters(), *model.named_buffers()]
        utils.require_same_model(named)
        # detached: these keep the whole tensors, on the host
        values = [tensor.detach() if utils.get_rank() == 0 else None for _, tensor in named]
        self._shard_in_place(model)
        self._materialise(model)
        for tensor, value in zip([*model.parameters(), *model.buffers()], values, strict=True):
            self._receive(tensor, value)
        self._model = model
        self._pair_up(model, attributes)
        return model

    def _shard_in_place(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            FSDPModule,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )
        from torch.distributed.tensor import Shard

        world_size = utils.get_world_size()
        kind = self._device.torch_device.type
        offload = CPUOffloadPolicy(pin_memory=kind == "cuda")
        options: dict[str, Any] = {
            "mesh": init_device_mesh(kind, (world_size,)),
            # param_dtype stays fp32: autocast decides, since fully_shard's would also cast norms
            "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
            "offload_policy": offload if self._training.cpu_offload else OffloadPolicy(),
            "shard_placement_fn": lambda parameter: Shard(shard_dim(parameter.shape, world_size)),
        }
        parts = parts_of(model)
        if not parts:
            logger.warning(
                "%s does not say which parts to gather one at a time (method sharded_parts), so all weights are "
                "gathered at once",
                type(model).__name__,
            )
        _expect_views((*parts, model))
        for part in parts:
            fully_shard(part, reshard_after_forward=not self._training.no_reshard_after_forward, **options)
        fully_shard(model, reshard_after_forward=False, **options)
        if self._device.collective_backend != "nccl" and hasattr(model, "set_force_sum_reduction_for_comms"):
            for part in model.modules():
                if isinstance(part, FSDPModule):
                    part.set_force_sum_reduction_for_comms(True)  # other libraries have no average
        for name in _OTHER_FORWARDS:
            if hasattr(model, name):
                register_fsdp_forward_method(model, name)

    def _materialise(self, model: nn.Module) -> None:
        """Give memory to a model that was built in `skeleton`; the values are undefined."""
        if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            return
        device = self._device.torch_device
        model.to_empty(device="cpu" if self._training.cpu_offload else device)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty_like(buffer, device=device)
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.is_meta:
                    raise RuntimeError(
                        f"{type(module).__name__}.{name} is a tensor, but not a buffer, so it cannot be sent to other "
                        "processes. Use register_buffer, or distributed_training.ddp_backend=pytorch_ddp."
                    )

    @torch.no_grad()
    def _receive(self, tensor: Tensor, value: Tensor | None) -> None:
        """Copy rank 0's values into a parameter's shard or a buffer (collective)."""
        device = self._device.torch_device
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if value is None else value.to(device)
        dist.broadcast(whole, src=0)
        sharding.plain(tensor).copy_(sharding.shard_of(whole, tensor) if sharding.is_sharded(tensor) else whole)

    def _pair_up(self, model: nn.Module, attributes: list[dict[str, Any]]) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter, marks in zip(trained, attributes, strict=True):
            local = sharding.plain(parameter).detach().requires_grad_()
            vars(local).update(marks)  # such as `param_group`, for the composite optimizer
            self._pairs.append((parameter, local))

    # -- an update -----------------------------------------------------------------------------------------------------

    def trained(self, model: nn.Module) -> list[Tensor]:
        return [local for _, local in self._pairs]

    @contextmanager
    def _exchanging(self, now: bool) -> Iterator[None]:
        self._follow()
        self._model.set_requires_gradient_sync(now)
        yield
        if now:
            for parameter, local in self._pairs:
                if parameter.grad is not None:
                    local.grad, parameter.grad = sharding.plain(parameter.grad), None

    def exchange(self, now: bool) -> AbstractContextManager[None]:
        """See Strategy. At the end of a block with `now`, the local shards have the gradients."""
        return self._exchanging(now)

    def _follow(self) -> None:
        """Let the local shards follow parameters whose memory torch has replaced, as it may when weights are loaded."""
        for parameter, local in self._pairs:
            current = sharding.plain(parameter)
            if current.data_ptr() != local.data_ptr():
                local.data = current.detach()

    def reduce(self, params: Sequence[Tensor]) -> None:
        """Nothing: the last backward pass has reduced the gradients to shards."""

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        squares = sharding.squared_norm(gradients).to(self._device.torch_device)
        return utils.all_reduce(squares).sqrt()

    # -- state ---------------------------------------------------------------------------------------------------------

    def _layouts(self, params: Sequence[Tensor]) -> list[Tensor]:
        layout = {id(local): parameter for parameter, local in self._pairs}
        return [layout[id(param)] for param in params]

    def optimizer_state(self, state: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        def as_shard(value: Tensor, layout: Tensor) -> Tensor:
            fits = value.shape == sharding.plain(layout).shape
            return sharding.as_shard(value, layout) if fits else value

        return sharding.over_parameters(state, self._layouts(params), as_shard)

    def shard(self, whole: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See Strategy; reads one tensor at a time, so `whole` can load them when they are asked for."""
        return {name: sharding.sharded_like(whole[name], like[name]) if name in like else whole[name] for name in whole}

    def shard_optimizer(self, whole: dict[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
        def part(value: Tensor, layout: Tensor) -> Tensor:
            return sharding.plain(sharding.sharded_like(value, layout))

        return sharding.over_parameters(whole, self._layouts(params), part)


def _expect_views(modules: Sequence[nn.Module]) -> None:
    """Silence torch's warning that a sharded module's output is a view, for this package's own modules.

    The danger is a change of the output in place, which none of them makes.
    """
    names = {type(module).__name__ for module in modules if type(module).__module__.startswith("fairseq.")}
    if names:
        warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \(FSDP({'|'.join(sorted(names))})\)", UserWarning)
