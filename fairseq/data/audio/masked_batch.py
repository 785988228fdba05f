"""Masks of a batch in the form that the model takes: booleans, and positions with weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairseq.data.batching import EVALUATION_EPOCH, BatchPlan
from fairseq.data.masking import (
    FinetuningMasks,
    MaskConfig,
    PretrainingMasks,
    draw_mask,
    draw_negatives,
    max_masked_frames,
    positions_and_weights,
)
from fairseq.dataclass.conv_layers import frames_for_samples


def masked_inputs(
    masks: PretrainingMasks, plan: BatchPlan, lengths: np.ndarray, generators: list[np.random.Generator]
) -> dict[str, Tensor]:
    """Draw a batch's masks, and in evaluation its negatives.

    Args:
        lengths: samples of each row, padding not counted, B.
        generators: one for each row that is drawn; the rows after them are filler, with the first row's masks and no
            weight.
    Returns:
        mask_indices bool B x T; masked_positions int64 and masked_weights float32 B x M, where M depends on T alone;
        mask_channel_indices bool B x C if channels are masked; negative_indices int64 B x M x N in evaluation if the
        settings ask for them.
    """
    num_rows = len(lengths)
    num_frames = int(frames_for_samples(plan.num_samples, masks.conv_layers))
    row_frames = frames_for_samples(lengths, masks.conv_layers)
    mask = _frames(masks.time, row_frames, num_frames, generators)
    max_masked = max_masked_frames(num_frames, masks.time)
    positions, weights = positions_and_weights(mask, max_masked)
    inputs = {}
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, num_rows, generators)
    if plan.epoch == EVALUATION_EPOCH and masks.num_negatives > 0:
        negatives = np.zeros((num_rows, max_masked, masks.num_negatives), dtype=np.int64)
        for row, rng in enumerate(generators):
            negatives[row] = draw_negatives(int(mask[row].sum()), max_masked, masks.num_negatives, rng)
        inputs["negative_indices"] = negatives
    weights[plan.num_valid :] = 0
    inputs |= {"mask_indices": mask, "masked_positions": positions, "masked_weights": weights}
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def hidden_inputs(
    masks: FinetuningMasks, plan: BatchPlan, lengths: np.ndarray, generators: list[np.random.Generator]
) -> dict[str, Tensor]:
    """Draw the masks of a batch to fine-tune on: mask_indices bool B x T and mask_channel_indices bool B x C, where
    there are any.

    Args:
        lengths, generators: as for `masked_inputs`.
    """
    inputs = {}
    if plan.epoch == EVALUATION_EPOCH:
        return inputs
    if masks.time is not None:
        num_frames = int(frames_for_samples(plan.num_samples, masks.conv_layers))
        inputs["mask_indices"] = _frames(
            masks.time, frames_for_samples(lengths, masks.conv_layers), num_frames, generators
        )
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, len(lengths), generators)
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _frames(
    cfg: MaskConfig, row_frames: np.ndarray, num_frames: int, generators: list[np.random.Generator]
) -> np.ndarray:
    """Masked frames, bool, B x T; padding is not masked."""
    mask = np.zeros((len(row_frames), num_frames), dtype=bool)
    for row, rng in enumerate(generators):
        mask[row, : row_frames[row]] = draw_mask(int(row_frames[row]), cfg, rng)
    mask[len(generators) :] = mask[0]
    return mask


def _channels(cfg: MaskConfig, num_channels: int, num_rows: int, generators: list[np.random.Generator]) -> np.ndarray:
    """Masked channels, bool, B x C."""
    channels = np.zeros((num_rows, num_channels), dtype=bool)
    for row, rng in enumerate(generators):
        channels[row] = draw_mask(num_channels, cfg, rng)
    channels[len(generators) :] = channels[0]
    return channels
