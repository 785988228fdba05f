"""Padding to a multiple."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import is_traced


def pad_to_multiple(
    x: Tensor | None, multiple: int, dim: int = -1, value: float = 0
) -> tuple[Tensor | None, int | Tensor]:
    """`x` padded at the end of a dimension (counted from the last: -1, -2 ...) to a multiple, and how much was added.

    While `torch.jit.trace` records, the count is a 0-dim tensor and the padding is recorded even where it is 0: other
    lengths need some.
    """
    if x is None or multiple == 1:
        return x, 0
    added = -x.size(dim) % multiple
    if not is_traced() and added == 0:
        return x, 0
    return F.pad(x, (0, 0) * (-1 - dim) + (0, added), value=value), added
