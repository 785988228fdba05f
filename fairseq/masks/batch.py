"""Masks of a batch: as a data-loading worker draws them, each row by its own key, in the form that the model takes;
and as fairseq's callers draw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from fairseq.frames import ConvSpec, frames_for_samples
from fairseq.masks.positions import draw_negatives, positions_and_weights
from fairseq.masks.settings import FinetuningMasks, MaskConfig, Masks, PretrainingMasks
from fairseq.masks.spans import draw_mask, draw_span_count, max_masked_frames, unmask


class Rows(NamedTuple):
    """The rows of a batch, as masks are drawn for them."""

    num_samples: int  # S: what rows are cropped or padded to
    lengths: np.ndarray  # int64, B: samples of each row, padding not counted
    num_valid: int  # rows that count, the first ones
    # one for each row that is drawn; the rows after them are filler, with the first row's masks and no weight
    generators: list[np.random.Generator]
    evaluation: bool


class MaskInputs(TypedDict, total=False):
    """The masks among a model's arguments."""

    mask_indices: Tensor  # bool, B x T
    masked_positions: Tensor  # int64, B x M: the masked frames, ascending, then filler; M depends on T alone
    masked_weights: Tensor  # float32, B x M: 1 for masked frames that count, 0 for filler
    mask_channel_indices: Tensor  # bool, B x C: where channels are masked
    negative_indices: Tensor  # int64, B x M x N: in evaluation, if the settings ask for them


def draw_masks(masks: Masks | None, rows: Rows) -> tuple[MaskInputs, int]:
    """The masks of a batch, and how many of its rows do not count because fewer than two of their frames are masked."""
    if isinstance(masks, PretrainingMasks):
        inputs, weights = predicted_masks(masks, rows)
        return inputs, rows.num_valid - int((weights.max(axis=1, initial=0) > 0).sum())
    if masks is None or rows.evaluation:
        return {}, 0
    return hidden_masks(masks, rows), 0


def predicted_masks(masks: PretrainingMasks, rows: Rows) -> tuple[MaskInputs, np.ndarray]:
    """The masks that pre-training predicts at, in evaluation with negatives; and the weights of the masked frames,
    B x M.
    """
    num_frames, mask = _frames(masks.time, masks.conv_layers, rows)
    max_masked = max_masked_frames(num_frames, masks.time)
    positions, weights = positions_and_weights(mask, max_masked)
    inputs: MaskInputs = {}
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, rows)
    if rows.evaluation and masks.num_negatives > 0:
        negatives = np.zeros((len(mask), max_masked, masks.num_negatives), dtype=np.int64)
        for row, rng in enumerate(rows.generators):
            negatives[row] = draw_negatives(int(mask[row].sum()), max_masked, masks.num_negatives, rng)
        inputs["negative_indices"] = torch.from_numpy(negatives)
    weights[rows.num_valid :] = 0
    inputs["mask_indices"] = torch.from_numpy(mask)
    inputs["masked_positions"] = torch.from_numpy(positions)
    inputs["masked_weights"] = torch.from_numpy(weights)
    return inputs, weights


def hidden_masks(masks: FinetuningMasks, rows: Rows) -> MaskInputs:
    """The masks of fine-tuning, which nothing is predicted at: mask_indices and mask_channel_indices, where there are
    any.
    """
    inputs: MaskInputs = {}
    if masks.time is not None:
        inputs["mask_indices"] = torch.from_numpy(_frames(masks.time, masks.conv_layers, rows)[1])
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, rows)
    return inputs


def _frames(cfg: MaskConfig, layers: Sequence[ConvSpec], rows: Rows) -> tuple[int, np.ndarray]:
    """T, and masked frames, bool, B x T; padding is not masked."""
    num_frames = frames_for_samples(rows.num_samples, layers)
    row_frames = frames_for_samples(rows.lengths, layers)
    mask = np.zeros((len(row_frames), num_frames), dtype=bool)
    for row, rng in enumerate(rows.generators):
        mask[row, : row_frames[row]] = draw_mask(int(row_frames[row]), cfg, rng)
    mask[len(rows.generators) :] = mask[0]
    return num_frames, mask


def _channels(cfg: MaskConfig, num_channels: int, rows: Rows) -> Tensor:
    """Masked channels, bool, B x C."""
    channels = np.zeros((len(rows.lengths), num_channels), dtype=bool)
    for row, rng in enumerate(rows.generators):
        channels[row] = draw_mask(num_channels, cfg, rng)
    channels[len(rows.generators) :] = channels[0]
    return torch.from_numpy(channels)


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
    parameters: tuple[tuple[str, Any], ...] = (),
) -> np.ndarray:
    """Random spans to mask, as fairseq draws them for a whole batch.

    Args:
        shape: (B, T).
        padding_mask: bool, B x T, True for padding at the end of a row; it is never masked.
        mask_type: a name in `fairseq.masks.selections`; `mask_other` is uniform's shortest, normal's standard
            deviation.
        require_same_masks: unmask single frames at random until every row has as many as the row with the fewest. The
            data-loading worker cuts each row by its own length instead (`spans.common_count`), and in fine-tuning not
            at all.
        mask_dropout: share of every row's masked frames to unmask again.
        seed, epoch, indices: with all three, row i is drawn from a generator keyed by (seed, epoch, indices[i]).
        rng: the generator otherwise; None makes one from numpy's global state, so that `numpy_seed` and
            `np.random.seed` rule it.
        parameters: name and value of those that only `mask_type` has.
    Returns:
        bool, B x T.
    Raises:
        ValueError: settings that no mask can be drawn from.
    """
    cfg = MaskConfig(
        mask_prob, mask_length, str(mask_type), mask_other, no_overlap, min_space, min_masks, parameters=parameters
    ).check("mask")
    num_rows, all_frames = shape
    if rng is None:
        rng = np.random.default_rng(np.random.randint(2**31, size=4))
    rngs, keyed = [rng] * num_rows, False
    if seed is not None and epoch is not None and indices is not None:
        rngs, keyed = [np.random.default_rng([seed, epoch, key]) for key in torch.as_tensor(indices).tolist()], True
    sizes = [all_frames] * num_rows
    if padding_mask is not None:
        sizes = (all_frames - padding_mask.long().sum(dim=1)).tolist()
    # fairseq: without padding and keys all rows have as many spans
    together = None if keyed or padding_mask is not None else draw_span_count(all_frames, cfg, rng)
    mask = np.zeros(shape, dtype=bool)
    for row, size, row_rng in zip(mask, sizes, rngs, strict=False):
        row[:size] = draw_mask(size, cfg, row_rng, together)
    target = int(mask.sum(axis=1).min(initial=all_frames)) if require_same_masks else all_frames
    for row, row_rng in zip(mask, rngs, strict=False):
        unmask(row, int(row.sum()) - target, row_rng)
        unmask(row, int(np.rint(row.sum() * mask_dropout)), row_rng)
    return mask
