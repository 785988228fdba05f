"""Instance normalisation with fp32 statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer


class Fp32InstanceNorm(nn.Module):
    """Instance norm over time with fp32 statistics, output in the input's dtype.

    B x C x T, or B x T x C with `transpose_last`.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, affine: bool = False, transpose_last: bool = False
    ) -> None:
        super().__init__()
        self.eps = eps
        self.transpose_last = transpose_last
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if self.transpose_last:
            x = x.transpose(1, 2)
        with device_layer.of(x).full_precision():
            out = F.instance_norm(
                x.float(), weight=self.weight, bias=self.bias, use_input_stats=True, eps=self.eps
            ).type_as(x)
        return out.transpose(1, 2) if self.transpose_last else out
