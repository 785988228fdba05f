"""The first convolution and the group norm after it as one convolution."""

from __future__ import annotations

from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules.length_aware import valid_frames


def fold_group_norm(
    columns: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weight and bias of each utterance's own convolution that gives what `norm(conv(audio))` gives.

    With one channel a group, the norm shifts and scales each channel by its mean and variance over time, and both
    follow from the mean and the K x K covariance of the audio's windows: the output need not be computed, kept or read
    again to normalise it.

    Args:
        columns: windows of raw audio that the statistics run over, B x T x K.
        conv: one input channel, C output channels; the norm takes its bias away again.
        norm: C groups.
        lengths: how many of each utterance's windows count in the statistics, B; None: all T.
    Returns:
        weight B x C x K and bias B x C, in the dtype of `conv`; gradients reach the weights of both modules.
    Source: Var[w.x] = w' Cov[x] w. Computed in fp64: neighbouring samples are so alike that for some filters it is a
    small difference of
        large numbers.
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
