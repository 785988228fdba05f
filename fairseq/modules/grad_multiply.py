"""Scaling of a gradient on its way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class GradMultiply(torch.autograd.Function):
    """Identity whose gradient is multiplied by `scale`: slows the feature extractor's learning (Baevski et al.
    2020, appendix A).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None
