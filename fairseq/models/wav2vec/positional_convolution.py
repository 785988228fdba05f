"""Relative positions by a wide grouped convolution (Mohamed et al. 2019; Baevski et al. 2020, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules import LayerNorm, SamePad, TransposeLast
from fairseq.modules.time_convolution import compute_dtype


class WeightNormConv1d(nn.Module):
    """Same-length convolution with weight norm per tap: direction `weight_v` times length `weight_g`.

    Names and order of the parameters are those of torch's hook-based weight norm over dim 2: bias, weight_g (1 x 1 x
    K), weight_v (C x C/groups x K). An even kernel produces one extra frame (see SamePad).

    Args:
        channels: C, a multiple of `groups`.
        kernel_size: K.
    Raises:
        ValueError: `groups` does not divide the channels.
    Source: Salimans and Kingma 2016.
    """

    def __init__(self, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        if channels % groups != 0:
            raise ValueError(
                f"model.encoder_embed_dim={channels} must be a multiple of model.conv_pos_groups={groups}."
            )
        self.kernel_size = (kernel_size,)
        self.padding = kernel_size // 2
        self.groups = groups
        # Var[output] is 4/groups for unit-variance input, for any kernel
        weight = torch.empty(channels, channels // groups, kernel_size).normal_(
            std=math.sqrt(4 / (kernel_size * channels))
        )
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self._frozen_weight: Tensor | None
        self.register_buffer("_frozen_weight", None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight, C x C/groups x K; computed on every access unless it is frozen."""
        return self._computed_weight() if self._frozen_weight is None else self._frozen_weight

    def _computed_weight(self) -> Tensor:
        return torch._weight_norm(self.weight_v, self.weight_g, 2)  # pyright: ignore[reportPrivateImportUsage]

    def freeze_weight(self, dtype: torch.dtype) -> None:
        """Compute the weight once, for inference. It no longer follows changes of the parameters."""
        self._frozen_weight = self._computed_weight().detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return grouped_convolution(x, self.weight, self.bias, self.padding, self.groups)


class GroupedConv1d(nn.Conv1d):
    """Same-length convolution, B x C x T, in the device's form (see `grouped_convolution`)."""

    def __init__(self, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        return grouped_convolution(input, self.weight, self.bias, self.kernel_size[0] // 2, self.groups)


def grouped_convolution(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """`F.conv1d(x, weight, bias, padding=padding, groups=groups)` in the form that the device chooses; B x C x T."""
    width = weight.size(1)
    form = device_layer.of(x).pos_conv_form(compute_dtype(x), width)
    # over a 1 x T image; the channels of the encoder's frames are already contiguous in memory. Not with one channel
    # per group, even if a caller forces it: oneDNN then takes minutes to generate its bf16 kernel
    if form == "conv2d" and width > 1:
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(image, weight.unsqueeze(2), bias, padding=(0, padding), groups=groups).squeeze(2)
    if form == "blocks":
        return block_convolution(x, weight, bias, padding, groups)
    return F.conv1d(x, weight, bias, padding=padding, groups=groups)


BLOCK = 8  # frames per matrix product in the form "blocks"


def multiply_adds(form: str, channels: int, kernel_size: int, groups: int) -> int:
    """Multiply-adds per frame of the positional convolution in one of its forms."""
    reach = kernel_size if form != "blocks" else BLOCK * _blocks_read(kernel_size)
    return channels * (channels // groups) * reach


def block_convolution(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """`F.conv1d(x, weight, bias, padding=padding, groups=groups)` as matrix products; B x C x T.

    `BLOCK` adjacent output frames form one row of `BLOCK * C/groups` numbers. It is a sum over the input blocks that
    they depend on: for each, the input's rows times a matrix of the taps, shifted by one frame per output frame. A
    grouped convolution with few channels per group is slow on matrix engines; the batched products are wide enough for
    them, at (K + BLOCK) / K times the operations. Not measured on Gaudi. Products are summed in fp32.
    """
    B, C, T = x.shape
    width, kernel_size = weight.size(1), weight.size(2)
    T_out = T + 2 * padding - kernel_size + 1
    num_out, num_read = -(-T_out // BLOCK), _blocks_read(kernel_size)
    num_in = num_out + num_read - 1
    x = F.pad(x, (padding, num_in * BLOCK - T - padding))
    rows = x.view(B, groups, width, num_in, BLOCK).permute(1, 0, 3, 4, 2).reshape(groups, B, num_in, BLOCK * width)
    taps = _shifted_taps(weight.view(groups, C // groups, width, kernel_size), num_read)
    parts = [
        torch.bmm(rows[:, :, ahead : ahead + num_out].flatten(1, 2), taps[:, ahead]).float()
        for ahead in range(num_read)
    ]
    out = sum(parts[1:], parts[0]).view(groups, B, num_out, BLOCK, C // groups)
    out = out.permute(1, 0, 4, 2, 3).reshape(B, C, num_out * BLOCK)[:, :, :T_out]
    return (out + bias.unsqueeze(-1)).to(compute_dtype(x))


def _blocks_read(kernel_size: int) -> int:
    """Number of input blocks that the output frames of one block depend on."""
    return -(-(kernel_size + BLOCK - 1) // BLOCK)


def _shifted_taps(weight: Tensor, num_read: int) -> Tensor:
    """A weight G x D' x D x K as one matrix per input block: G x num_read x (BLOCK*D) x (BLOCK*D').

    Tap j - l connects input frame j to output frame l. Rows of taps and zeros with one number more than the frames read
    are concatenated and then read in rows of exactly that many frames, so each row starts one tap earlier than the
    previous one.
    """
    G, out_width, in_width, kernel_size = weight.shape
    frames = num_read * BLOCK
    padded = F.pad(weight, (0, frames + 1 - kernel_size)).unsqueeze(3).expand(-1, -1, -1, BLOCK, -1)
    # G x D' x D x l x block x j in it
    by_frame = padded.flatten(3)[..., : BLOCK * frames].unflatten(3, (BLOCK, num_read, BLOCK))
    return by_frame.permute(0, 4, 5, 2, 3, 1).reshape(G, num_read, BLOCK * in_width, BLOCK * out_width)


def make_conv_pos(channels: int, kernel_size: int, groups: int) -> nn.Sequential:
    """One wide convolution with weight norm, then GELU; B x C x T."""
    return nn.Sequential(WeightNormConv1d(channels, kernel_size, groups), SamePad(kernel_size), nn.GELU())


def batch_norm_conv_pos(channels: int, kernel_size: int, groups: int) -> nn.Sequential:
    """Batch norm, one wide convolution without weight norm, then GELU (HuBERT in bf16); B x C x T."""
    conv = GroupedConv1d(channels, kernel_size, groups)
    nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel_size * channels)))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.BatchNorm1d(channels), conv, SamePad(kernel_size), nn.GELU())


def stacked_pos_conv(channels: int, kernel_size: int, groups: int, depth: int) -> nn.Sequential:
    """`depth` narrow convolutions that together reach as far as one of `kernel_size`; B x C x T."""
    kernel = max(3, kernel_size // depth)
    return nn.Sequential(
        *[
            nn.Sequential(
                GroupedConv1d(channels, kernel, groups),
                SamePad(kernel),
                TransposeLast(),
                LayerNorm(channels, elementwise_affine=False),
                TransposeLast(),
                nn.GELU(),
            )
            for _ in range(depth)
        ]
    )
