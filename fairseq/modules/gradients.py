"""Functions that return their input and change its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class GradMultiply(torch.autograd.Function):
    """Identity whose gradient is multiplied by `scale`.

    It slows the feature extractor's learning (Baevski et al. 2020, appendix A).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad * ctx.scale, None


class ZeroGradients(torch.autograd.Function):
    """Identity of the first argument; the other arguments get zero gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (grad,) = grads
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def with_zero_gradients(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return `x`; its backward pass also gives trained parameters among these a zero gradient.

    Processes that exchange gradients wait for the gradients of all trained parameters.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return ZeroGradients.apply(x, *trained) if trained and torch.is_grad_enabled() else x
