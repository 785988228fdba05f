"""Length correction after a convolution with padding kernel // 2."""

from __future__ import annotations

from torch import Tensor, nn


class SamePad(nn.Module):
    """Drop the extra frame of an even kernel, so that a convolution padded by kernel // 2 keeps its length.

    Input and output are B x C x T.

    Args:
        kernel_size: kernel of the preceding convolution.
        causal: drop all frames that look ahead instead.
    """

    def __init__(self, kernel_size: int, causal: bool = False) -> None:
        super().__init__()
        self.remove = kernel_size - 1 if causal else int(kernel_size % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : x.size(2) - self.remove] if self.remove > 0 else x
