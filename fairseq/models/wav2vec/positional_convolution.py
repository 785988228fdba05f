"""Relative positions as a wide grouped convolution over the frames (Mohamed et al. 2019; Baevski et al. 2020, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules import LayerNorm, SamePad, TransposeLast
from fairseq.modules.time_convolution import compute_dtype


class WeightNormConv1d(nn.Module):
    """Same-length convolution whose weight is a direction `weight_v` times a length `weight_g` a tap (Salimans and Kingma 2016).

    Names and order of the parameters are those of torch's hook-based weight norm over dim 2: bias, weight_g (1 x 1 x K),
    weight_v (C x C/groups x K). An even kernel gives one frame too many (see SamePad).

    Args:
        channels: C, a multiple of `groups`.
        kernel_size: K.
    Raises:
        ValueError: the channels cannot be split over the groups.
    """

    def __init__(self, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        if channels % groups != 0:
            raise ValueError(f"{channels} channels (model.encoder_embed_dim) cannot be split over model.conv_pos_groups={groups}")
        self.kernel_size = (kernel_size,)
        self.padding = kernel_size // 2
        self.groups = groups
        # Var[output] is 4/groups of the input's for unit-variance input, whatever the kernel
        weight = torch.empty(channels, channels // groups, kernel_size).normal_(std=math.sqrt(4 / (kernel_size * channels)))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.register_buffer("_frozen_weight", None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight itself, C x C/groups x K, a new tensor each time unless it is frozen."""
        return torch._weight_norm(self.weight_v, self.weight_g, 2) if self._frozen_weight is None else self._frozen_weight

    def freeze_weight(self, dtype: torch.dtype) -> None:
        """Compute the weight once, for inference. It no longer follows its parameters."""
        self._frozen_weight = torch._weight_norm(self.weight_v, self.weight_g, 2).detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        form = device_layer.of(x).pos_conv_form(compute_dtype(x))
        if form == "conv2d":  # over a 1 x T image; the encoder's frames have their channels side by side in memory already
            image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            return F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=(0, self.padding), groups=self.groups).squeeze(2)
        return F.conv1d(x, self.weight, self.bias, padding=self.padding, groups=self.groups)


def make_conv_pos(channels: int, kernel_size: int, groups: int) -> nn.Sequential:
    """One wide convolution with weight norm, then GELU; B x C x T."""
    return nn.Sequential(WeightNormConv1d(channels, kernel_size, groups), SamePad(kernel_size), nn.GELU())


def stacked_pos_conv(channels: int, kernel_size: int, groups: int, depth: int) -> nn.Sequential:
    """`depth` narrow convolutions that see as far as one of `kernel_size`, each with a layer norm and GELU; B x C x T."""
    kernel = max(3, kernel_size // depth)
    return nn.Sequential(
        *[
            nn.Sequential(
                nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups),
                SamePad(kernel),
                TransposeLast(),
                LayerNorm(channels, elementwise_affine=False),
                TransposeLast(),
                nn.GELU(),
            )
            for _ in range(depth)
        ]
    )
