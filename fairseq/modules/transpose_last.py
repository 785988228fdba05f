"""Transposition as a module, for use inside nn.Sequential."""

from __future__ import annotations

from torch import Tensor, nn


class TransposeLast(nn.Module):
    """Swap the last two dimensions; with `deconstruct_idx`, first select one item of a tuple."""

    def __init__(self, deconstruct_idx: int | None = None) -> None:
        super().__init__()
        self.deconstruct_idx = deconstruct_idx

    def forward(self, x: Tensor) -> Tensor:
        if self.deconstruct_idx is not None:
            x = x[self.deconstruct_idx]
        return x.transpose(-2, -1)
