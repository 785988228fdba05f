"""Masks of a model's forward pass: given by the caller, or drawn here. Letters: see `fairseq.models.wav2vec`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq.masks.batch import compute_mask_indices
from fairseq.masks.positions import inside, positions_of
from fairseq.masks.settings import MIN_TIME_MASKS, MaskSettings, parameters_of


class FrameMask(NamedTuple):
    """Which frames of a batch are masked and predicted."""

    indices: Tensor  # bool, B x T
    positions: Tensor  # int64, B x M: the masked frames, ascending, then filler
    weights: Tensor  # float32, B x M: 1 for masked frames that count, 0 for filler


def frame_mask(
    settings: MaskSettings,
    features: Tensor,
    padding_mask: Tensor | None,
    indices: Tensor | None,
    positions: Tensor | None,
    weights: Tensor | None,
) -> FrameMask | None:
    """Return the mask for a forward pass, from the caller's arguments or drawn here.

    The data-loading worker passes indices, positions and weights, so nothing here waits for the device. If only
    `indices` is given, it is read on the host; if nothing is given, the mask is drawn from `settings`, as in fairseq.

    Args:
        features: B x T x C, for the shape and the device.
        indices: bool, B x T, or None.
        positions: int64, B x M, or None.
        weights: float32, B x M, or None.
    Returns:
        The mask; None if `mask_prob` is 0 and no mask was given.
    Raises:
        ValueError: only one of positions and weights is given, or `indices` has the wrong shape or masks no frame.
    """
    if (positions is None) != (weights is None):
        raise ValueError("masked_positions and masked_weights must be given together, but only one was.")
    B, T = features.shape[:2]
    if positions is not None and weights is not None:
        positions = positions.long()  # may arrive as int32, which gather accepts only since torch 2.13
        if indices is None:
            shown = torch.zeros(B, T, device=features.device).scatter_add_(1, positions, (weights > 0).float())
            indices = shown > 0
        if settings.crop_seq_to_multiple > 1:
            positions, weights = inside(T, positions, weights)
        return FrameMask(indices[:, :T], positions, weights)
    if indices is not None and (indices.dim() != 2 or indices.size(0) != B or indices.size(1) < T):
        raise ValueError(
            f"mask_indices has shape {' x '.join(map(str, indices.shape))}, but this audio has {B} x {T} "
            "(utterances x frames)."
        )
    indices = masked_frames(settings, features, padding_mask, None) if indices is None else indices[:, :T]
    return None if indices is None else FrameMask(indices, *positions_of(indices))


def masked_frames(
    settings: MaskSettings, features: Tensor, padding_mask: Tensor | None, indices: Tensor | None
) -> Tensor | None:
    """Return the masked frames, bool, B x T, as given or drawn from the settings; None if `mask_prob` is 0.

    A model that predicts nothing at masked frames, as in fine-tuning, needs only this. A given mask is not read on the
    host.
    """
    B, T = features.shape[:2]
    if settings.mask_prob <= 0:
        return None
    if indices is None:
        drawn = compute_mask_indices(
            (B, T),
            padding_mask,
            settings.mask_prob,
            settings.mask_length,
            settings.mask_selection,
            settings.mask_other,
            min_masks=MIN_TIME_MASKS,
            no_overlap=settings.no_mask_overlap,
            min_space=settings.mask_min_space,
            require_same_masks=settings.require_same_masks,
            mask_dropout=settings.mask_dropout,
            parameters=parameters_of("mask", settings),
        )
        indices = torch.from_numpy(drawn).to(features.device)
    return indices[:, :T]


def channel_mask(settings: MaskSettings, features: Tensor, indices: Tensor | None) -> Tensor | None:
    """Return the masked channels, bool, B x 1 x C, as given or drawn from the settings; None if disabled.

    Args:
        indices: bool, B x C, or B x T x C as in fairseq.
    """
    if settings.mask_channel_prob <= 0:
        return None
    if indices is None:
        drawn = compute_mask_indices(
            (features.size(0), features.size(2)),
            None,
            settings.mask_channel_prob,
            settings.mask_channel_length,
            settings.mask_channel_selection,
            settings.mask_channel_other,
            no_overlap=settings.no_mask_channel_overlap,
            min_space=settings.mask_channel_min_space,
            parameters=parameters_of("mask_channel", settings),
        )
        indices = torch.from_numpy(drawn).to(features.device)
    return indices.unsqueeze(1) if indices.dim() == 2 else indices
