"""Draw the masks of a batch: in a data-loading worker, with one key per row, or through fairseq's function."""

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
    """The rows of a batch that masks are drawn for."""

    num_samples: int  # S: the length that rows are cropped or padded to
    lengths: np.ndarray  # int64, B: samples of each row without padding
    num_valid: int  # the first num_valid rows count
    # one per drawn row; the remaining rows are filler with the first row's masks and weight 0
    generators: list[np.random.Generator]
    evaluation: bool


class MaskInputs(TypedDict, total=False):
    """The mask arguments of a model."""

    mask_indices: Tensor  # bool, B x T
    masked_positions: Tensor  # int64, B x M: the masked frames, ascending, then filler; M depends only on T
    masked_weights: Tensor  # float32, B x M: 1 for masked frames that count, 0 for filler
    mask_channel_indices: Tensor  # bool, B x C: True for masked channels
    negative_indices: Tensor  # int64, B x M x N: only in evaluation, if the settings ask for them


class Drawn(NamedTuple):
    """The masks of a batch, and counts over its rows that count."""

    inputs: MaskInputs
    few_masked: int = 0  # rows with fewer than two masked frames, which do not count
    num_masked: int = 0  # masked frames
    num_frames: int = 0  # frames without padding; 0 without masks


def draw_masks(masks: Masks | None, rows: Rows) -> Drawn:
    """Draw the masks of a batch."""
    if isinstance(masks, PretrainingMasks):
        inputs, weights = predicted_masks(masks, rows)
        few_masked = rows.num_valid - int((weights.max(axis=1, initial=0) > 0).sum())
        return Drawn(inputs, few_masked, *_counts(inputs, masks, rows))
    if masks is None or rows.evaluation:
        return Drawn({})
    inputs = hidden_masks(masks, rows)
    return Drawn(inputs, 0, *_counts(inputs, masks, rows))


def _counts(inputs: MaskInputs, masks: Masks, rows: Rows) -> tuple[int, int]:
    """Count masked frames and frames of the rows that count; 0 and 0 if no frames are masked."""
    if "mask_indices" not in inputs:
        return 0, 0
    frames = frames_for_samples(rows.lengths[: rows.num_valid], masks.conv_layers)
    return int(inputs["mask_indices"][: rows.num_valid].numpy().sum()), int(frames.sum())


def predicted_masks(masks: PretrainingMasks, rows: Rows) -> tuple[MaskInputs, np.ndarray]:
    """Draw pre-training masks, plus negatives in evaluation; also return the weights, B x M."""
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
    """Draw fine-tuning masks, at which nothing is predicted: mask_indices and mask_channel_indices, if enabled."""
    inputs: MaskInputs = {}
    if masks.time is not None:
        inputs["mask_indices"] = torch.from_numpy(_frames(masks.time, masks.conv_layers, rows)[1])
    if masks.channel is not None:
        inputs["mask_channel_indices"] = _channels(masks.channel, masks.num_channels, rows)
    return inputs


def _frames(cfg: MaskConfig, layers: Sequence[ConvSpec], rows: Rows) -> tuple[int, np.ndarray]:
    """Return T and the masked frames, bool, B x T; padding is not masked."""
    num_frames = frames_for_samples(rows.num_samples, layers)
    row_frames = frames_for_samples(rows.lengths, layers)
    mask = np.zeros((len(row_frames), num_frames), dtype=bool)
    for row, rng in enumerate(rows.generators):
        mask[row, : row_frames[row]] = draw_mask(int(row_frames[row]), cfg, rng)
    mask[len(rows.generators) :] = mask[0]
    return num_frames, mask


def _channels(cfg: MaskConfig, num_channels: int, rows: Rows) -> Tensor:
    """Return the masked channels, bool, B x C."""
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
    """Draw random spans to mask for a whole batch, as fairseq does.

    Args:
        shape: (B, T).
        padding_mask: bool, B x T, True for padding at the end of a row, which is never masked.
        mask_type: a name in `fairseq.masks.selections`: how span lengths are drawn. `mask_other` is the shortest
            length for uniform and the standard deviation for normal.
        require_same_masks: unmask random single frames until every row has as many masked frames as the row with the
            fewest. The data-loading worker instead cuts each row to a count that depends on its length
            (`spans.common_count`), and does not cut rows in fine-tuning.
        mask_dropout: share of every row's masked frames to unmask.
        seed, epoch, indices: if all three are given, row i uses a generator keyed by (seed, epoch, indices[i]).
        rng: the generator to use otherwise; None creates one from numpy's global state, so `numpy_seed` and
            `np.random.seed` control it.
        parameters: (name, value) of the parameters that only `mask_type` has.
    Returns:
        Masked frames, bool, B x T.
    Raises:
        ValueError: the settings are invalid.
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
    # fairseq: without padding and keys, all rows have the same number of spans
    together = None if keyed or padding_mask is not None else draw_span_count(all_frames, cfg, rng)
    mask = np.zeros(shape, dtype=bool)
    for row, size, row_rng in zip(mask, sizes, rngs, strict=False):
        row[:size] = draw_mask(size, cfg, row_rng, together)
    target = int(mask.sum(axis=1).min(initial=all_frames)) if require_same_masks else all_frames
    for row, row_rng in zip(mask, rngs, strict=False):
        unmask(row, int(row.sum()) - target, row_rng)
        unmask(row, int(np.rint(row.sum() * mask_dropout)), row_rng)
    return mask
