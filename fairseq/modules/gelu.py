"""GELU by fairseq's names.

Models compute the exact (erf) form, on CPU and CUDA. On HPU every GELU has the tanh form, whatever is asked for, unless
PT_HPU_FORCE_TANH_FOR_GELU is 0: values differ by less than 5e-4, slopes by less than 1e-3
(tests/parity/test_hpu_arms.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import gelu_accurate

__all__ = ["gelu", "gelu_accurate"]


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU, computed in fp32 and returned in the input's dtype."""
    return F.gelu(x.float()).type_as(x)
