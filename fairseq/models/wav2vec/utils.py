"""Padding to a multiple."""

from __future__ import annotations

from typing import overload

import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import is_traced


@overload
def pad_to_multiple(x: Tensor, multiple: int, dim: int = -1, value: float = 0) -> tuple[Tensor, int | Tensor]: ...


@overload
def pad_to_multiple(
    x: Tensor | None, multiple: int, dim: int = -1, value: float = 0
) -> tuple[Tensor | None, int | Tensor]: ...


def pad_to_multiple(
    x: Tensor | None, multiple: int, dim: int = -1, value: float = 0
) -> tuple[Tensor | None, int | Tensor]:
    """Pad `x` at the end of a dimension (-1, -2 ...) to a multiple. Returns it and the length added.

    In `torch.jit.trace`, that length is a 0-dim tensor, and padding of 0 is recorded too: other lengths need more.
    """
    if x is None or multiple == 1:
        return x, 0
    added = -x.size(dim) % multiple
    if not is_traced() and added == 0:
        return x, 0
    return F.pad(x, (0, 0) * (-1 - dim) + (0, added), value=value), added
