"""Padding to a multiple."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor | None, multiple: int, dim: int = -1, value: float = 0) -> tuple[Tensor | None, int]:
    """`x` padded at the end of a dimension (counted from the last: -1, -2 ...) to a multiple, and how much was added."""
    if x is None:
        return None, 0
    added = -x.size(dim) % multiple
    if added == 0:
        return x, 0
    return F.pad(x, (0, 0) * (-1 - dim) + (0, added), value=value), added
