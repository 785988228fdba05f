"""Attention in blocks of heads that fit the CPU's cache, with dropout in the sign bit of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairseq.modules.dropout import can_draw_signs, draw_signs

_BLOCK = 2**20  # scores computed at a time: 2 MB in bf16


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention on the CPU, equal to the plain form up to rounding.

    Args:
        q: B x H x T x D. k, v: B x H x T' x D.
        mask: added to the scaled scores, broadcastable to B x H x T x T'; it can only require a gradient if it has
            exactly that shape.
        dropout: on the weights.
    Returns:
        B x H x T x D.

    Measured for 4 x 12 heads, 500 frames, bf16, dropout 0.1, 2 threads, forward and backward: 65 ms; torch's SDPA: 209
    ms (107 ms without dropout).
    """
    B, H = q.shape[:2]
    if mask is not None:
        mask = mask.expand(B, H, *mask.shape[-2:]).reshape(B * H, *mask.shape[-2:])
    with torch.autocast("cpu", enabled=False):
        scaled = (q * q.size(-1) ** -0.5).reshape(B * H, *q.shape[2:])
        k, v = k.reshape(B * H, *k.shape[2:]), v.reshape(B * H, *v.shape[2:])
        if dropout == 0 and not torch.is_grad_enabled():
            out = attention_without_gradient(scaled, k, v, mask)
        else:
            out = BlockwiseAttention.apply(scaled, k, v, mask, dropout)
    return out.view(B, H, *out.shape[1:])


def attention_without_gradient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over heads x T x D of scaled queries, with memory for one block of scores at any length."""
    heads, T = q.shape[:2]
    out = q.new_empty(heads, T, v.size(2))
    rows = max(1, min(T, _BLOCK // k.size(1)))  # if one head's scores exceed a block, some of its rows
    for block in _blocks(heads, rows * k.size(1)):
        keys = k[block].transpose(1, 2)
        for first in range(0, T, rows):
            part = slice(first, first + rows)
            scores = torch.bmm(q[block, part], keys)
            if mask is not None:
                scores += mask[block] if mask.size(1) == 1 else mask[block, part]
            torch.bmm(scores.softmax(-1), v[block], out=out[block, part])
    return out


def takes_dropout(dropout: float, dtype: torch.dtype) -> bool:
    """Whether blockwise attention supports this dropout probability."""
    return dropout == 0 or can_draw_signs(dropout, dtype)


class BlockwiseAttention(torch.autograd.Function):
    """Attention over heads x T x D; saves the weights for backward, with negative sign if dropped."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        heads, T = q.shape[:2]
        out = q.new_empty(heads, T, v.size(2))
        signed = q.new_empty(heads, T, k.size(1))
        scale = 1.0
        for block in _blocks(heads, T * k.size(1)):
            scores = torch.bmm(q[block], k[block].transpose(1, 2))
            if mask is not None:
                scores += mask[block]
            weights = torch.softmax(scores, dim=-1, out=signed[block]) if dropout == 0 else scores.softmax(-1)
            if dropout > 0:
                signs, dropped_share = draw_signs(scores.shape, dropout, q.dtype)
                scale = 1 / (1 - dropped_share)
                sign_bit = signs.bitwise_and_(torch.iinfo(signs.dtype).min)
                torch.bitwise_or(weights.view(signs.dtype), sign_bit, out=signed[block].view(signs.dtype))
                weights = signed[block].relu()
            torch.bmm(weights, v[block], out=out[block])
        ctx.save_for_backward(q, k, v, signed)
        ctx.scale = scale
        return out.mul_(scale) if dropout > 0 else out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        (grad,) = grads
        q, k, v, signed = ctx.saved_tensors
        grad = grad.contiguous() if ctx.scale == 1.0 else grad.contiguous() * ctx.scale
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        grad_mask = torch.empty_like(signed) if ctx.needs_input_grad[3] else None
        for block in _blocks(signed.size(0), signed[0].numel()):
            weights = signed[block]
            torch.bmm(weights.relu().transpose(1, 2), grad[block], out=grad_v[block])
            grad_weights = torch.bmm(grad[block], v[block].transpose(1, 2))
            grad_weights = torch.ops.aten.threshold_backward(grad_weights, weights, 0)  # 0 where dropped
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights.abs(), -1, q.dtype)
            torch.bmm(grad_scores, k[block], out=grad_q[block])
            torch.bmm(grad_scores.transpose(1, 2), q[block], out=grad_k[block])
            if grad_mask is not None:
                grad_mask[block] = grad_scores
        return grad_q, grad_k, grad_v, grad_mask, None


def _blocks(heads: int, scores: int) -> list[slice]:
    """Slices of heads with up to `_BLOCK` scores each, or one head if it has more."""
    step = max(1, _BLOCK // scores)
    return [slice(first, first + step) for first in range(0, heads, step)]
