"""Masked frames as positions and weights of a fixed shape, and negatives among them.

Letters: B utterances, T frames, C channels, M masked positions per row, N negatives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def positions_and_weights(mask: np.ndarray, max_masked: int) -> tuple[np.ndarray, np.ndarray]:
    """Convert boolean masks to positions and weights of a fixed shape.

    Args:
        mask: bool, B x T.
        max_masked: M, at least the largest number of masked frames in a row.
    Returns:
        positions: int64, B x M, the masked frames in ascending order, then zeros.
        weights: float32, B x M, 1 for masked frames and 0 for filler; all 0 in rows with fewer than two masked frames,
            which have no negatives.
    """
    counts = mask.sum(axis=1)
    assert counts.max(initial=0) <= max_masked, "a row has more masked frames than its settings allow"
    rows, frames = np.nonzero(mask)
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.zeros((len(mask), max_masked), dtype=np.int64)
    positions[rows, slots] = frames
    weights = (np.arange(max_masked) < counts[:, None]) & (counts[:, None] >= 2)
    return positions, weights.astype(np.float32)


def draw_negatives(num_masked: int, max_masked: int, num_negatives: int, rng: np.random.Generator) -> np.ndarray:
    """Draw negatives for each masked frame of an utterance, uniformly with replacement from its other masked frames.

    Returns:
        int64, M x N, positions among the utterance's masked frames; zeros in filler rows.
    """
    negatives = np.zeros((max_masked, num_negatives), dtype=np.int64)
    if num_masked >= 2:
        drawn = rng.integers(0, num_masked - 1, size=(num_masked, num_negatives))
        negatives[:num_masked] = drawn + (drawn >= np.arange(num_masked)[:, None])  # skip the positive itself
    return negatives


def inside(num_frames: int, positions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Set the weight to 0 for positions beyond the cropped length, and for rows left with fewer than two."""
    weights = weights * (positions < num_frames).float()
    return positions.clamp(max=num_frames - 1), weights * ((weights > 0).sum(dim=1, keepdim=True) >= 2).float()


def positions_of(indices: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a boolean mask (B x T) to positions and weights (B x M); waits for the device.

    M is the largest number of masked frames in a row. Rows with fewer than two masked frames have no negatives and get
    weight 0.

    Raises:
        ValueError: no frame is masked.
    """
    counts = indices.sum(dim=1)
    largest = int(counts.max())
    if largest == 0:
        raise ValueError(
            "mask_indices masks no frame, so there is nothing to predict. Mask at least one frame, or pass mask=False."
        )
    positions = (~indices).to(torch.uint8).argsort(dim=1, stable=True)[:, :largest]  # masked frames first, in order
    counted = (torch.arange(largest, device=indices.device) < counts.unsqueeze(1)) & (counts.unsqueeze(1) >= 2)
    return positions, counted.float()


def gather_frames(x: Tensor, positions: Tensor) -> Tensor:
    """Gather the frames at these positions: B x T x C, B x M -> B x M x C."""
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.size(-1)))
