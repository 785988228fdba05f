"""Fold the group norm after the first convolution into that convolution."""

from __future__ import annotations

from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules.length_aware import valid_frames


def fold_group_norm(
    columns: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute weight and bias, per utterance, of a convolution equal to `norm(conv(audio))`.

    With one channel per group, the norm shifts and scales each channel by its mean and variance over time. Both follow
    from the mean and the K x K covariance of the audio's windows, so the convolution's output does not have to be
    stored and read again to normalise it.

    Args:
        columns: windows of raw audio for the statistics, B x T x K.
        conv: one input channel, C output channels; the norm cancels its bias.
        norm: C groups.
        lengths: number of windows per utterance that enter the statistics, B; None: all T.
    Returns:
        weight B x C x K and bias B x C, in the dtype of `conv`; gradients flow to the weights of both modules.
    Source: Var[w.x] = w' Cov[x] w. In fp64: neighbouring samples are so similar that for some filters it is a small
        difference of large numbers.
    """
    with device_layer.of(columns).full_precision():
        columns = columns.double()
        if lengths is None:
            mean = columns.mean(dim=1, keepdim=True)  # B x 1 x K
            centred = columns - mean
            covariance = centred.transpose(1, 2) @ centred / columns.size(1)
        else:
            valid = valid_frames(lengths, columns.size(1)).unsqueeze(-1)  # B x T x 1
            count = valid.sum(dim=1, keepdim=True)
            mean = (columns * valid).sum(dim=1, keepdim=True) / count
            centred = (columns - mean) * valid
            covariance = centred.transpose(1, 2) @ centred / count
        weight = conv.weight.squeeze(1).double()  # C x K
        variance = ((weight @ covariance) * weight).sum(dim=-1)  # B x C
        scale = norm.weight.double() * (variance + norm.eps).rsqrt()
        bias = norm.bias.double() - scale * (mean @ weight.t()).squeeze(1)
        if conv.bias is not None:
            bias = bias + (conv.bias - conv.bias)  # its gradient is 0, not missing
        return (scale.unsqueeze(-1) * weight).type_as(conv.weight), bias.type_as(conv.weight)
