"""Unpadded convolution over time, in the form that is fastest on the device; results are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.utils import is_hpu_tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype of a matrix product: autocast's if it is on, else the tensor's own."""
    return device_layer.of(x).compute_dtype(x.dtype)


def convolve_over_time(x: Tensor, conv: nn.Conv1d, form: str) -> Tensor:
    """Run `conv(x)`, B x C x T -> B x C' x T', as "conv1d", or as a channels-last "conv2d" over a 1 x T image."""
    # hpu: the matrix engine runs 2-D convolutions; the weight stays 3-D, so checkpoints are the same everywhere
    if is_hpu_tensor(x):
        return F.conv2d(x.unsqueeze(2), conv.weight.unsqueeze(2), conv.bias, stride=(1, conv.stride[0])).squeeze(2)
    if form == "conv2d":
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(image, conv.weight.unsqueeze(2), conv.bias, stride=(1, conv.stride[0])).squeeze(2)
    return conv(x)


# -- the form "matmul": time first, contiguous channels ----------------------------------------------------------------
#
# The rows of all utterances are concatenated in one matrix. Each utterance has a few extra rows ("spare rows"), so that
# its length is divisible by all following strides. The frames t*stride ... t*stride+stride-1 of all outputs t are then
# the rows of one matrix, a view of the input, and so are the next `stride` frames: each such run of taps is one product
# for all utterances, without unfolding. Spare rows contain finite numbers that no valid row depends on, and their
# gradient is 0.


def frames_with_spare(num_frames: int, strides: Sequence[int]) -> int:
    """Round `num_frames` up to a multiple of the product of these strides."""
    multiple = 1
    for stride in strides:
        multiple *= stride
    return -(-num_frames // multiple) * multiple


def windows(source: Tensor, kernel: int, stride: int, num_windows: int) -> Tensor:
    """The first layer's windows of raw audio: B x S -> B x num_windows x kernel, zeros past the end."""
    missing = (num_windows - 1) * stride + kernel - source.size(1)
    return F.pad(source, (0, max(0, missing))).unfold(1, kernel, stride)[:, :num_windows]


def window_convolution(columns: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply windows B x P x K by a weight C' x K (shared) or B x C' x K (per utterance): B x P x C'.

    The result has autocast's dtype if it is on. The bias (C', or B x C') is an extra column, which saves a pass over
    the output.
    """
    if bias is not None:
        columns = F.pad(columns, (0, 1), value=1.0)
        weight = torch.cat([weight, bias.unsqueeze(-1)], dim=-1)
    return torch.matmul(columns, weight.transpose(-2, -1))


def matmul_convolution(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Run `conv` over B x P x C with spare rows: B x P/stride x C'. P is a multiple of the stride."""
    return MatmulConvolution.apply(x.to(compute_dtype(x)), conv.weight, conv.bias, conv.stride[0])


class MatmulConvolution(torch.autograd.Function):
    """See the note above. Products run in the dtype of `x`; gradients of weight and bias have their dtypes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        B, P, C = x.shape
        rows = x.contiguous().view(-1, stride * C)
        runs = _runs(weight.to(x.dtype), stride)
        out = x.new_empty(rows.size(0), weight.size(0))
        for ahead, taps in enumerate(runs):
            read = rows[ahead:, : taps.size(1)]
            if ahead > 0:
                out[:-ahead].addmm_(read, taps.t())
            elif bias is None:
                torch.mm(read, taps.t(), out=out)
            else:
                torch.addmm(bias.to(x.dtype), read, taps.t(), out=out)
        ctx.save_for_backward(rows, weight, bias)
        ctx.stride, ctx.shape = stride, x.shape
        return out.view(B, P // stride, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,) = grads
        rows, weight, bias = ctx.saved_tensors
        grad = grad.reshape(rows.size(0), -1)
        runs = _runs(weight.to(rows.dtype), ctx.stride)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _grad_rows(grad, runs, rows).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            parts = [grad[: grad.size(0) - ahead].t() @ rows[ahead:, : taps.size(1)] for ahead, taps in enumerate(runs)]
            by_tap = torch.cat([part.unflatten(1, (-1, weight.size(1))) for part in parts], dim=1)  # C' x K x C
            grad_weight = by_tap.permute(0, 2, 1).to(weight.dtype, memory_format=torch.contiguous_format)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=0, dtype=torch.promote_types(grad.dtype, torch.float32)).to(bias.dtype)
        return grad_x, grad_weight, grad_bias, None


def _runs(weight: Tensor, stride: int) -> list[Tensor]:
    """Split the taps of a weight C' x C x K in runs of `stride`, each C' x (taps * C)."""
    return [run.transpose(1, 2).flatten(1) for run in weight.split(stride, dim=2)]


def _grad_rows(grad: Tensor, runs: list[Tensor], rows: Tensor) -> Tensor:
    """Gradient of the input's rows: the sum over the runs of taps that read them."""
    first = runs[0]
    if first.size(1) == rows.size(1):
        grad_rows = grad @ first
    else:  # a kernel shorter than its stride leaves frames unread
        grad_rows = torch.zeros_like(rows)
        grad_rows[:, : first.size(1)] = grad @ first
    for ahead, taps in enumerate(runs[1:], start=1):
        grad_rows[ahead:, : taps.size(1)].addmm_(grad[:-ahead], taps)
    return grad_rows
