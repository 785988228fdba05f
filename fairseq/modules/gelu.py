"""GELU by fairseq's names."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import gelu_accurate

__all__ = ["gelu", "gelu_accurate"]


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU, computed in fp32 and returned in the input's dtype."""
    return F.gelu(x.float()).type_as(x)
