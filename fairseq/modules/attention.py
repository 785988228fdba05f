"""Scaled dot-product attention, in the form that is fastest on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq import device as device_layer
from fairseq.modules.blockwise_attention import blockwise_attention, takes_dropout
from fairseq.utils import is_hpu_tensor


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, needs_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attention.

    Args:
        q: B x H x T x D. k, v: B x H x T' x D.
        mask: added to the scaled scores, broadcastable to B x H x T x T'.
        dropout: on the weights; 0 outside training.
        needs_weights: also return the weights.
    Returns:
        B x H x T x D, and the weights after dropout (B x H x T x T') or None.
    """
    form = device_layer.of(q).attention_form(q.dtype, needs_weights)
    if form == "blocks" and takes_dropout(dropout, q.dtype):
        return blockwise_attention(q, k, v, mask, dropout), None
    if form == "vendor":
        return device_layer.of(q).fused_attention(q, k, v, mask, dropout), None
    if form == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout), None
    out, weights = matmul_attention(q, k, v, mask, dropout)
    return out, weights if needs_weights else None


def additive_mask(key_padding_mask: Tensor | None, attn_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Combine both masks to one term to add to the scores; None without masks.

    It is broadcastable to B x H x T x T', in the dtype of `like`.
    """
    terms = []
    if key_padding_mask is not None:
        terms.append(minus_infinity_where(key_padding_mask, like)[:, None, None, :])
    if attn_mask is not None:
        terms.append(
            minus_infinity_where(attn_mask, like) if attn_mask.dtype == torch.bool else attn_mask.type_as(like)
        )
    return sum(terms[1:], terms[0]) if terms else None


def minus_infinity_where(mask: Tensor, like: Tensor) -> Tensor:
    """Term that masks out scores where `mask` is true, else 0."""
    # hpu: infinities produce NaN in the softmax kernels; -2^30 absorbs any score, and its exponential is 0 (bit-equal)
    lowest = -(2.0**30) if is_hpu_tensor(like) else float("-inf")
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask.bool(), lowest)


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Plain attention: its output (B x H x T x D) and the weights after dropout (B x H x T x T')."""
    scores = torch.matmul(q * q.size(-1) ** -0.5, k.transpose(-2, -1))
    if mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return torch.matmul(weights, v), weights
