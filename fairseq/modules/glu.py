"""Gated linear unit."""

from __future__ import annotations

from torch import Tensor, nn

from fairseq.utils import is_hpu_tensor


class GLU(nn.GLU):
    """One half of a dimension times the sigmoid of the other half (Dauphin et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        # hpu: its kernel is for fp32 only; the two operations that it stands for are not (the same bits on CPU)
        if is_hpu_tensor(x):
            half, gate = x.chunk(2, dim=self.dim)
            return half * gate.sigmoid()
        return super().forward(x)
