"""Fused kernels as autograd functions: `apply` takes its arguments by position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from habana_frameworks import recorder


class FusedSDPA(torch.autograd.Function):
    @classmethod
    def apply(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        softmax_mode: str = "None",
        recompute_mode: bool | None = None,
        valid_seq_len: Tensor | None = None,
        seq_padding_type: str = "left",
        /,
    ) -> Tensor:
        recorder.note("FusedSDPA", shape=tuple(q.shape), masked=attn_mask is not None, dropout_p=dropout_p, softmax_mode=softmax_mode)
        if softmax_mode not in ("None", "fast") or (softmax_mode == "fast" and not is_causal and torch.is_grad_enabled()):
            raise RuntimeError("softmax_mode 'fast' is for causal attention in training")
        if q.dim() != 4:
            raise RuntimeError("q is B x H x T x D")
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale)


class CTCLoss(torch.autograd.Function):
    @classmethod
    def apply(
        cls,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
        /,
    ) -> Tensor:
        recorder.note("CTCLoss", shape=tuple(log_probs.shape), dtype=str(log_probs.dtype), reduction=reduction, zero_infinity=zero_infinity)
        for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
            if not isinstance(lengths, Tensor):
                raise TypeError(f"{name} must be a tensor on the device")
        return F.ctc_loss(log_probs, targets, input_lengths.long(), target_lengths.long(), blank, reduction, zero_infinity)


__all__ = ["CTCLoss", "FusedSDPA"]
