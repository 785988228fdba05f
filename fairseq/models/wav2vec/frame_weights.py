"""Weights of frames: padding and rows without predictions do not count."""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq import device as device_layer


def frame_weights(features: Tensor, padding_mask: Tensor | None, row_counts: Tensor | None) -> Tensor | None:
    """Weights (B x T): 1 for frames that are not padding, in rows that count (bool, B); None: all count."""
    if padding_mask is None and row_counts is None:
        return None
    weights = torch.ones(features.shape[:2], device=features.device)
    if padding_mask is not None:
        weights = weights.masked_fill(padding_mask, 0)
    return weights if row_counts is None else weights * row_counts.unsqueeze(1).float()


def mean_of_frames(values: Tensor, valid: Tensor | None, row_counts: Tensor | None) -> Tensor:
    """Mean over the valid frames (B x T) of the rows that count; 0 without any."""
    with device_layer.of(values).full_precision():
        weights = frame_weights(values, None if valid is None else ~valid, row_counts)
        if weights is None:
            return values.mean()
        return (values * weights).sum() / weights.sum().clamp(min=1)
