"""Quantization noise on weights in training (Fan et al. 2020, arXiv:2004.07320)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def quant_noise(module: nn.Module, p: float, block_size: int) -> nn.Module:
    """Make a layer zero blocks of its weights before every training pass, and scale the rest by 1 / (1 - p).

    The weights themselves are changed, as in fairseq; use it for training that ends in product quantization.

    Args:
        module: nn.Linear, nn.Embedding or nn.Conv2d.
        p: share of the blocks to zero; 0 returns the layer unchanged.
        block_size: entries per block, along the last dimension of the weights (for convolutions: input channels, or a
            whole kernel).
    Raises:
        ValueError: unsupported layer, or a size that is not a multiple of `block_size`.
    """
    if p <= 0:
        return module
    if not isinstance(module, (nn.Linear, nn.Embedding, nn.Conv2d)):
        raise ValueError(f"quant_noise got {type(module).__name__}. It supports nn.Linear, nn.Embedding and nn.Conv2d.")
    whole_kernels = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    size = module.weight[0, 0].numel() if whole_kernels else module.weight.size(1)
    if size % block_size != 0:
        what = "kernel size" if whole_kernels else "number of input features"
        raise ValueError(f"quant_noise: the {what} is {size}. It must be a multiple of block_size={block_size}.")

    def drop_blocks(layer: nn.Module, _: Any) -> None:
        assert isinstance(layer, (nn.Linear, nn.Embedding, nn.Conv2d))
        if layer.training:
            dropped = _draw(layer.weight, p, 1 if whole_kernels else block_size)
            layer.weight.data = layer.weight.data.masked_fill(dropped, 0) / (1 - p)

    module.register_forward_pre_hook(drop_blocks)
    return module


def _draw(weight: Tensor, p: float, block_size: int) -> Tensor:
    """Draw the weights to drop, bool, broadcastable to the shape of the weights."""
    rows, columns = weight.shape[:2]
    blocks = torch.zeros(rows * columns // block_size, device=weight.device).bernoulli_(p)
    dropped = blocks.repeat_interleave(block_size).view(rows, columns).bool()
    return dropped.view(rows, columns, *(1,) * (weight.dim() - 2))
