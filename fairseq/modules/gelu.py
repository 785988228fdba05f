"""Activations: GELU under fairseq's names, and the gated linear unit.

Models use the exact (erf) form of GELU on CPU and CUDA. On HPU every GELU has the tanh form, unless
PT_HPU_FORCE_TANH_FOR_GELU=0: values differ by less than 5e-4, slopes by less than 1e-3 (tests/parity/test_hpu_arms.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq.utils import gelu_accurate, is_hpu_tensor

__all__ = ["GLU", "gelu", "gelu_accurate"]


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU, computed in fp32 and returned in the input's dtype."""
    return F.gelu(x.float()).type_as(x)


class GLU(nn.GLU):
    """One half of a dimension times the sigmoid of the other half (Dauphin et al. 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        # hpu: the GLU kernel is fp32 only; these two operations are not (bit-equal on CPU)
        if is_hpu_tensor(input):
            half, gate = input.chunk(2, dim=self.dim)
            return half * gate.sigmoid()
        return super().forward(input)
