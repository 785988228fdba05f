"""The base class of optimizers: a torch optimizer with fairseq's interface."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional, Protocol, Union, cast

import torch
from torch import Tensor, nn

from fairseq import utils
from fairseq.dataclass.checks import refuse


def learning_rates(lr: Any) -> list[float]:
    """`optimization.lr` as a list of floats: one number, or one per epoch.

    Raises:
        ValueError: neither a number nor a list of numbers, such as an unresolved interpolation.
    """
    values = list(lr) if isinstance(lr, Iterable) and not isinstance(lr, str) else [lr]
    if not values or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise ValueError(f"lr is {lr!r}: it must be a number or a list of numbers, as in optimization.lr=[0.0005].")
    return [float(value) for value in values]


class SkippingOptimizer(Protocol):
    """A torch optimizer that can skip an update on the device."""

    def step(self, *, found_inf: Optional[Tensor], grad_scale: Optional[Tensor]) -> Any: ...

    def sync_steps(self) -> None: ...


class FairseqOptimizer:
    """A torch optimizer, in `_optimizer`, with the other methods that a trainer calls.

    A torch optimizer whose `step` takes `found_inf` and `grad_scale` sets `skips_on_device = True`; for others,
    `found_inf` is read on the host.
    """

    _optimizer: torch.optim.Optimizer

    def __init__(self, cfg: Any) -> None:
        refuse(cfg, "optimizer", type(self))
        self.cfg = cfg

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    @property
    def uses_vendor_kernel(self) -> bool:
        """Whether the device vendor's kernel does the update, so that its other kernels should be used too."""
        return False

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Settings of the torch optimizer's groups from the config. On resume they override the checkpoint's."""
        raise NotImplementedError

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @property
    def params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def get_lr(self) -> float:
        return next(iter(self.param_groups))["lr"]

    def set_lr(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Optional[dict[str, Any]] = None) -> None:
        """Load a checkpoint's state. Group settings come from the config and `checkpoint.optimizer_overrides`.

        fairseq: there the checkpoint's settings take precedence, so a changed optimizer.weight_decay has no effect.
        """
        self.optimizer.load_state_dict(state_dict)
        for group in self.param_groups:
            group.update({**self.optimizer_config, **(optimizer_overrides or {})})

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def all_reduce_grads(self, module: nn.Module) -> None:
        """Average gradients over processes, if the wrapped module implements it."""
        reduce = getattr(module, "all_reduce_grads", None)
        if callable(reduce):
            reduce()

    @torch.no_grad()
    def multiply_grads(self, c: Union[float, Tensor]) -> None:
        """Multiply every gradient by a number or a 0-dim tensor, in place."""
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for p in self.params:
            if p.grad is not None:
                alike[p.grad.device, p.grad.dtype].append(p.grad)
        for (device, _), grads in alike.items():
            multiplier = c.to(device) if isinstance(c, Tensor) else c
            torch._foreach_mul_(grads, multiplier)  # pyright: ignore[reportPrivateImportUsage]

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
        """Scale the gradients to a norm of at most `max_norm` (0: do not scale); returns the norm before."""
        return utils.clip_grad_norm_(list(self.params), max_norm, aggregate_norm_fn)

    def step(self, found_inf: Optional[Tensor] = None, grad_scale: Optional[Tensor] = None) -> None:
        """Take one step with the gradients divided by `grad_scale`, or none if `found_inf` is 1.

        The gradients can be changed in place.

        Args:
            found_inf: 0-dim float tensor on the parameters' device, 0 or 1.
            grad_scale: 0-dim float tensor on the parameters' device.
        """
        if getattr(self.optimizer, "skips_on_device", False):
            cast(SkippingOptimizer, self.optimizer).step(found_inf=found_inf, grad_scale=grad_scale)
            return
        if grad_scale is not None:
            self.multiply_grads(1.0 / grad_scale)
        if found_inf is None or not bool(found_inf):
            self.optimizer.step()

    def sync_steps(self) -> None:
        """Set the host's step counts to the device's. Call this when skipped updates are detected."""
        if hasattr(self.optimizer, "sync_steps"):
            cast(SkippingOptimizer, self.optimizer).sync_steps()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free all gradients, or fill them with zeros, since freed gradients change a recorded graph."""
        self.optimizer.zero_grad(set_to_none=set_to_none)


class LegacyFairseqOptimizer(FairseqOptimizer):
    """An optimizer that takes old command-line arguments."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self.args = args
