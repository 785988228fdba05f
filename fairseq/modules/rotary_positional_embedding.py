"""Rotary positional embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotate_half(x: Tensor) -> Tensor:
    """Return (-second half, first half) of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, T x B x H x D, by the angles of their positions, at least offset+T x 1 x 1 x D."""
    span = slice(offset, offset + q.size(0))
    cos, sin = cos[span].type_as(q), sin[span].type_as(q)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


class RotaryPositionalEmbedding(nn.Module):
    """Cosines and sines of position * frequency (Su et al. 2021).

    As in fairseq, the buffer `inv_freq` is in the state dict.

    Args:
        dim: width of a head, even.
        base: longest wavelength divided by 2 pi.
        precision: ignored (fairseq's argument); the table is fp32 and is cast to the dtype of queries and keys.
    """

    def __init__(self, dim: int, base: float = 10000, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", 1.0 / base ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, x: Tensor, seq_len: int = 0) -> tuple[Tensor, Tensor]:
        """Tables for `seq_len` positions, seq_len x 1 x 1 x dim, on the device of `x`."""
        angle = torch.outer(torch.arange(seq_len, device=x.device, dtype=torch.float32), self.inv_freq.float())
        angle = torch.cat((angle, angle), dim=-1)[:, None, None, :]
        return angle.cos(), angle.sin()
