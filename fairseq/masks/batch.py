"""Masks of a batch: as a data-loading worker draws them, each row by its own key, in the form that the model takes;
and as fairseq's callers draw them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairseq.frames import frames_for_samples
from fairseq.masks.positions import draw_negatives, positions_and_weights
from fairseq.masks.settings import FinetuningMasks, MaskConfig, PretrainingMasks
from fairseq.masks.spans import draw_mask, draw_span_count, max_masked_frames, unmask


def masked_inputs(
    masks: PretrainingMasks,
    num_samples: int,
    lengths: np.ndarray,
    num_valid: int,
    generators: list[np.random.Generator],
    evaluation: bool,
) -> dict[str, Tensor]:
    """Draw a batch's masks, and in evaluation its negatives.

    Args:
        num_samples: S, what rows are cropped or padded to.
        num_valid: rows that count, the first ones; the others get no weight.
        lengths: samples of each row, padding not counted, B.
        generators: one for each row that is drawn; the rows after them are filler, with the first row's masks and no
            weight.
    Returns:
        mask_indices bool B x T; masked_positions int64 and masked_weights float32 B x M, where M depends on T alone;
        mask_channel_indices bool B x C if channels are masked; negative_indices int64 B x M x N in evaluation if the
        settings ask for them.
    """
    num_rows = len(lengths)
    num_frames = int(frames_for_samples(num_samples, masks.conv_layers))
    row_frames = frames_for_samples(lengths, masks.conv_layers)
    mask = _frames(masks.time, row_frames, num_frames, generators)
    max_masked = max_masked_frames(num_frames, masks.time)
    positions, weights = positions_and_weights(mask, max_masked)
    inputs: dict[str, np.ndarray] = {}
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, num_rows, generators)
    if evaluation and masks.num_negatives > 0:
        negatives = np.zeros((num_rows, max_masked, masks.num_negatives), dtype=np.int64)
        for row, rng in enumerate(generators):
            negatives[row] = draw_negatives(int(mask[row].sum()), max_masked, masks.num_negatives, rng)
        inputs["negative_indices"] = negatives
    weights[num_valid:] = 0
    inputs |= {"mask_indices": mask, "masked_positions": positions, "masked_weights": weights}
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def hidden_inputs(
    masks: FinetuningMasks, num_samples: int, lengths: np.ndarray, generators: list[np.random.Generator]
) -> dict[str, Tensor]:
    """Draw the masks of a batch to fine-tune on: mask_indices bool B x T and mask_channel_indices bool B x C, where
    there are any.

    Args:
        num_samples, lengths, generators: as for `masked_inputs`.
    """
    inputs: dict[str, np.ndarray] = {}
    if masks.time is not None:
        num_frames = int(frames_for_samples(num_samples, masks.conv_layers))
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


def compute_mask_indices(
    shape: tuple[int, int],
    padding_mask: Tensor | None,
    mask_prob: float,
    mask_length: int,
    mask_type: str = "static",
    mask_other: float = 0.0,
    min_masks: int = 0,
    no_overlap: bool = False,
    min_space: int = 0,
    require_same_masks: bool = True,
    mask_dropout: float = 0.0,
    seed: int | None = None,
    epoch: int | None = None,
    indices: Tensor | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Random spans to mask, as fairseq draws them for a whole batch.

    Args:
        shape: (B, T).
        padding_mask: bool, B x T, True for padding at the end of a row; it is never masked.
        mask_type: static, uniform, normal or poisson lengths; `mask_other` is uniform's shortest, normal's standard
            deviation.
        require_same_masks: unmask single frames at random until every row has as many as the row with the fewest. The
            data-loading worker cuts each row by its own length instead (`spans.common_count`), and in fine-tuning not
            at all.
        mask_dropout: share of every row's masked frames to unmask again.
        seed, epoch, indices: with all three, row i is drawn from a generator keyed by (seed, epoch, indices[i]).
        rng: the generator otherwise; None makes one from numpy's global state, so that `numpy_seed` and
            `np.random.seed` rule it.
    Returns:
        bool, B x T.
    Raises:
        ValueError: settings that no mask can be drawn from.
    """
    cfg = MaskConfig(mask_prob, mask_length, mask_type, mask_other, no_overlap, min_space, min_masks, 0.0).check("mask")
    num_rows, all_frames = shape
    if rng is None:
        rng = np.random.default_rng(np.random.randint(2**31, size=4))
    keyed = seed is not None and epoch is not None and indices is not None
    keys = torch.as_tensor(indices).tolist() if keyed else []
    rngs = [np.random.default_rng([seed, epoch, key]) for key in keys] if keyed else [rng] * num_rows
    if padding_mask is not None:
        sizes = (all_frames - padding_mask.long().sum(dim=1)).tolist()
        counts: list[int | None] = [None] * num_rows
    else:
        sizes = [all_frames] * num_rows
        counts = [None] * num_rows if keyed else [draw_span_count(all_frames, cfg, rng)] * num_rows
    mask = np.zeros(shape, dtype=bool)
    for row, size, count, row_rng in zip(mask, sizes, counts, rngs, strict=False):
        row[:size] = draw_mask(size, cfg, row_rng, count)
    target = int(mask.sum(axis=1).min(initial=all_frames)) if require_same_masks else all_frames
    for row, row_rng in zip(mask, rngs, strict=False):
        unmask(row, int(row.sum()) - target, row_rng)
        unmask(row, int(np.rint(row.sum() * mask_dropout)), row_rng)
    return mask
