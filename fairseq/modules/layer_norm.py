"""Layer normalisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer

has_fused_layernorm = False  # fairseq: whether apex's kernel is available


def LayerNorm(
    normalized_shape: int | list[int], eps: float = 1e-5, elementwise_affine: bool = True, export: bool = False
) -> nn.LayerNorm:
    """torch's layer norm; `export` (which selects a kernel in fairseq) is ignored."""
    return nn.LayerNorm(normalized_shape, eps, elementwise_affine)


class Fp32LayerNorm(nn.LayerNorm):
    """Layer norm with fp32 statistics and output in the input's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        if device_layer.of(input).norms_mix_dtypes:
            return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        with device_layer.of(input).full_precision():
            return F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps).type_as(input)
