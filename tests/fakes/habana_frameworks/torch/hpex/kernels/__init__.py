"""Fused kernels as autograd functions: `apply` takes positional arguments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.device.stand_in import Ctc
from habana_frameworks import recorder


class FusedSDPA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
    ) -> Tensor:
        if not torch.compiler.is_compiling():  # the real kernel is one operator; Python state would become a guard
            recorder.note(
                "FusedSDPA", shape=tuple(q.shape), masked=attn_mask is not None, dropout_p=dropout_p, dtype=str(q.dtype)
            )
        if softmax_mode != "None" or is_causal:
            raise NotImplementedError("this stand-in knows attention that is not causal")
        scale = q.size(-1) ** -0.5 if scale is None else scale
        with torch.autocast("cpu", enabled=False):  # one kernel, in its inputs' dtype
            scores = torch.matmul(q * scale, k.transpose(-2, -1))
            weights = (scores if attn_mask is None else scores + attn_mask).softmax(-1)
            kept = F.dropout(torch.ones_like(weights), dropout_p)
            out = torch.matmul(weights * kept, v)
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        grad_v = torch.matmul((weights * kept).transpose(-2, -1), grad)
        grad_weights = torch.matmul(grad, v.transpose(-2, -1)) * kept
        grad_scores = weights * (grad_weights - (grad_weights * weights).sum(-1, keepdim=True))
        grad_q = torch.matmul(grad_scores, k) * ctx.scale
        grad_k = torch.matmul(grad_scores.transpose(-2, -1), q) * ctx.scale
        return (grad_q, grad_k, grad_v, *[None] * 8)


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
        recorder.note(
            "CTCLoss",
            shape=tuple(log_probs.shape),
            dtype=str(log_probs.dtype),
            reduction=reduction,
            zero_infinity=zero_infinity,
        )
        for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
            if not isinstance(lengths, Tensor):
                raise TypeError(f"{name} must be a tensor on the device")
        return Ctc.apply(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


__all__ = ["CTCLoss", "FusedSDPA"]
