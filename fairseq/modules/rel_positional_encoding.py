"""Sinusoids of relative positions, for the conformer's attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairseq.utils import is_traced


def relative_sinusoids(num_frames: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoids of the distances num_frames-1, ..., 0, ..., -(num_frames-1), (2*num_frames-1) x dim, fp32.

    Even columns are sines, odd columns cosines, of distance / 10000^(2i/dim).
    Source: Dai et al. 2019 (Transformer-XL), section 3.3 and appendix B.
    """
    distance = torch.arange(num_frames - 1, -num_frames, -1, dtype=torch.float32, device=device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / dim))
    table = torch.stack([torch.sin(distance * rate), torch.cos(distance * rate)], dim=2)
    return table.flatten(1)


class RelPositionalEncoding(nn.Module):
    """Table of relative sinusoids that grows with the longest input; it is not in the state dict.

    Args:
        max_len: ignored (fairseq's argument; there the table has this length, 600 MB for 100,000 frames x 768).
        d_model: channels, even.
    """

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self._table: Tensor | None = None  # not a buffer: it must not be in checkpoints

    def forward(self, x: Tensor) -> Tensor:
        """Encodings for input T x B x C: (2T-1) x 1 x C, largest distance first, in dtype and device of the input."""
        num_frames = x.size(0)
        if is_traced():  # the table would become a constant with the length of the traced input
            return relative_sinusoids(num_frames, self.d_model, x.device).unsqueeze(1).type_as(x)
        table = self._table
        if table is None or table.size(0) < 2 * num_frames - 1 or table.device != x.device:
            self._table = table = relative_sinusoids(num_frames, self.d_model, x.device)
        middle = table.size(0) // 2
        return table[middle - num_frames + 1 : middle + num_frames].unsqueeze(1).type_as(x)
