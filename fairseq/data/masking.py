"""Which frames and channels of an utterance are masked, drawn on the host from a keyed generator.

Letters: B utterances, T frames, C channels, M masked positions a row, N negatives.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fairseq.dataclass.conv_layers import ConvSpec, parse_conv_layers

SELECTIONS = ("static", "uniform", "normal", "poisson")
MIN_TIME_MASKS = 2  # fairseq: wav2vec 2.0 masks at least two spans of an utterance, so that each has a negative
_FEWEST_OF_EIGHT = 1.42  # deviations below the mean: where the smallest of eight normal draws lies on average
_SAMPLE_ROWS, _SAMPLE_FRAMES = 256, 1000  # what the mean and deviation of masked frames are taken from


class MaskConfig(NamedTuple):
    """How spans are drawn along one axis (time, or channels)."""

    prob: float  # masked share of the axis if no two spans overlapped
    length: int  # span length: exact for static, mean for normal and poisson, half the largest for uniform
    selection: str  # one of SELECTIONS
    other: float  # shortest length for uniform, standard deviation for normal
    no_overlap: bool
    min_space: int  # only with no_overlap: what is left unmasked between spans, as fairseq counts it
    min_masks: int  # spans drawn at least
    dropout: float = 0.0  # share of the masked positions that is unmasked again
    same_count: bool = False  # rows are cut to `common_count`: fairseq's require_same_masks

    def check(self, axis: str) -> MaskConfig:
        """Raise ValueError for settings that no mask can be drawn from; `axis` is "mask" or "mask_channel", as in
        the config's keys.
        """
        problems = []
        if self.selection not in SELECTIONS:
            problems.append(f"{axis}_selection is {self.selection!r}; it may be one of {', '.join(SELECTIONS)}")
        if self.prob < 0:
            problems.append(f"{axis}_prob is {self.prob}; it must not be negative")
        if self.length < 1:
            problems.append(f"{axis}_length is {self.length}; it must be at least 1")
        if self.other < 0 or (self.selection == "uniform" and self.other > 2 * self.length):
            problems.append(
                f"{axis}_other is {self.other}; it must not be negative nor, for uniform, above twice {axis}_length"
            )
        if not 0 <= self.dropout <= 1:
            problems.append(f"{axis}_dropout is {self.dropout}; it must lie between 0 and 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class PretrainingMasks(NamedTuple):
    """All that a data-loading worker needs to draw an utterance's masks and, for validation, its negatives."""

    time: MaskConfig
    channel: MaskConfig | None  # None: no channel masks
    num_channels: int  # width of the channel masks: the encoder's
    conv_layers: tuple[ConvSpec, ...]
    num_negatives: int = 0  # negatives a masked frame that validation batches bring along; 0: the model draws them

    @classmethod
    def from_config(
        cls, cfg: Any, dropout: float = 0.0, num_negatives: int = 0, same_count: bool = True
    ) -> PretrainingMasks:
        """Read the fields that `task.inferred_w2v_config` and the wav2vec 2.0 model's config share.

        Raises:
            ValueError: settings that no mask can be drawn from, or none that masks anything.
        """
        if cfg.mask_prob <= 0:
            raise ValueError(
                f"mask_prob is {cfg.mask_prob}: pre-training predicts masked frames, so it must be above 0 (the "
                "paper: 0.65)"
            )
        return cls(
            time=time_masks(cfg, dropout)._replace(same_count=same_count),
            channel=channel_masks(cfg) if cfg.mask_channel_prob > 0 else None,
            num_channels=cfg.encoder_embed_dim,
            conv_layers=tuple(parse_conv_layers(cfg.conv_feature_layers)),
            num_negatives=num_negatives,
        )


class FinetuningMasks(NamedTuple):
    """What a worker needs to draw the masks of fine-tuning, which nothing is predicted at; none are drawn in
    evaluation.
    """

    time: MaskConfig | None
    channel: MaskConfig | None
    num_channels: int
    conv_layers: tuple[ConvSpec, ...]

    @classmethod
    def from_config(cls, cfg: Any, apply_mask: bool) -> FinetuningMasks:
        """Read the fields of the encoder's config; without `apply_mask` there are no masks.

        Raises:
            ValueError: settings that no mask can be drawn from.
        """
        return cls(
            time=time_masks(cfg, cfg.mask_dropout) if apply_mask and cfg.mask_prob > 0 else None,
            channel=channel_masks(cfg) if apply_mask and cfg.mask_channel_prob > 0 else None,
            num_channels=cfg.encoder_embed_dim,
            conv_layers=tuple(parse_conv_layers(cfg.conv_feature_layers)),
        )


def time_masks(cfg: Any, dropout: float = 0.0) -> MaskConfig:
    """The settings of masks over time in a model's config, checked."""
    return MaskConfig(
        cfg.mask_prob,
        cfg.mask_length,
        str(cfg.mask_selection),
        cfg.mask_other,
        cfg.no_mask_overlap,
        cfg.mask_min_space,
        MIN_TIME_MASKS,
        dropout,
    ).check("mask")


def channel_masks(cfg: Any) -> MaskConfig:
    """The settings of masks over channels, checked."""
    return MaskConfig(
        cfg.mask_channel_prob,
        cfg.mask_channel_length,
        str(cfg.mask_channel_selection),
        cfg.mask_channel_other,
        cfg.no_mask_channel_overlap,
        cfg.mask_channel_min_space,
        0,
    ).check("mask_channel")


def max_spans(size: int, cfg: MaskConfig) -> int:
    """The most spans that `draw_mask` asks for on an axis of this size."""
    return max(cfg.min_masks, math.ceil(cfg.prob * size / cfg.length))


def max_masked_frames(size: int, cfg: MaskConfig) -> int:
    """M: the largest count that `draw_mask` can mask on an axis of this size; a function of the size and the settings
    alone.

    Normal and poisson lengths have no upper end, so for them it is the size itself if rows are not cut.
    """
    if size <= 0 or (cfg.prob <= 0 and cfg.min_masks == 0):
        return 0
    drawn = _most_drawn(size, cfg)
    return min(drawn, common_count(size, cfg)) if cfg.same_count else drawn


def _most_drawn(size: int, cfg: MaskConfig) -> int:
    spans = max_spans(size, cfg)
    if cfg.selection == "poisson" or (cfg.selection == "normal" and cfg.other > 0):
        return size
    if cfg.selection == "uniform":
        return min(size, spans * 2 * cfg.length)
    reachable = size
    if not cfg.no_overlap and size - cfg.length > spans:
        reachable = size - 1  # the last frame is never masked: see `_overlapping`
    return min(reachable, spans * cfg.length)


def common_count(size: int, cfg: MaskConfig) -> int:
    """The masked frames that a row of this size is cut to with `same_count`; it grows with the size.

    fairseq cuts all rows of a batch to the row with the fewest, so that a row depends on the others of its batch, and a
    short padded one takes the masks of them all. Here a row is cut to what the fewest of eight rows of its own size has
    on average, by its size alone, but not below the length of a span. That is taken from the mean and deviation of long
    rows: where `min_masks` decides how many spans there are (short rows, a small `prob`), rows are cut further than by
    fairseq, and with `no_overlap` a little less, so that more of them have fewer masked frames than this.
    """
    share, variance = _masked_share(cfg)
    return max(cfg.length, cfg.min_masks, math.floor(share * size - _FEWEST_OF_EIGHT * math.sqrt(variance * size)))


@lru_cache
def _masked_share(cfg: MaskConfig) -> tuple[float, float]:
    """Mean and variance of a row's masked frames, both per frame: rows long enough that their ends do not matter."""
    whole, rng = cfg._replace(same_count=False, dropout=0.0), np.random.default_rng(0)
    counts = np.array([draw_mask(_SAMPLE_FRAMES, whole, rng).sum() for _ in range(_SAMPLE_ROWS)])
    return float(counts.mean()) / _SAMPLE_FRAMES, float(counts.var()) / _SAMPLE_FRAMES


def draw_mask(size: int, cfg: MaskConfig, rng: np.random.Generator, num_spans: int | None = None) -> np.ndarray:
    """One mask of `size` booleans: whole spans, cut at the end of the axis only, but for `same_count` and `dropout`.

    Args:
        num_spans: spans to draw; None draws it as fairseq does: prob * size / length, rounded up or down at random, at
            least min_masks.
    Source: Baevski et al. 2020, section 3.1, with fairseq 0.12.2's rounding, lengths and placement, so that counts are
    distributed alike.
    """
    if size <= 0:
        return np.zeros(max(size, 0), dtype=bool)
    if num_spans is None:
        num_spans = draw_span_count(size, cfg, rng)
    if num_spans == 0:
        return np.zeros(size, dtype=bool)
    lengths = _draw_lengths(size, num_spans, cfg, rng)
    if cfg.no_overlap:
        starts, lengths = _apart(size, lengths, cfg.min_space, rng)
        if len(starts) == 0:
            return np.zeros(size, dtype=bool)
    else:
        starts = _overlapping(size, lengths, rng)
    mask = _cover(size, starts, lengths)
    if cfg.same_count:
        unmask(mask, int(mask.sum()) - common_count(size, cfg), rng)
    if cfg.dropout > 0:
        unmask(mask, int(np.rint(mask.sum() * cfg.dropout)), rng)
    return mask


def unmask(mask: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Take so many frames out of a mask, single ones at random as in fairseq; none for a count below 1."""
    if count > 0:
        mask[rng.choice(np.flatnonzero(mask), count, replace=False)] = False


def _cover(size: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """True where any span lies; what reaches over the end is cut."""
    if (lengths == lengths[0]).all():  # static: a third of the time of the general way
        mask = np.zeros(max(size, int(starts.max())) + int(lengths[0]), dtype=bool)
        mask[starts[:, None] + np.arange(lengths[0])] = True
        return mask[:size]
    # +1 where a span begins and -1 where it ends: the running sum is the number of spans over a frame
    begins = np.bincount(np.minimum(starts, size), minlength=size + 1)
    ends = np.bincount(np.minimum(starts + lengths, size), minlength=size + 1)
    return np.cumsum(begins - ends)[:size] > 0


def draw_span_count(size: int, cfg: MaskConfig, rng: np.random.Generator) -> int:
    """Spans of one row: rounded up with the probability of its fraction."""
    wanted = cfg.prob * size / cfg.length
    return max(cfg.min_masks, min(int(wanted + rng.random()), math.ceil(wanted)))  # min: a sum that floats rounded up


def _draw_lengths(size: int, num_spans: int, cfg: MaskConfig, rng: np.random.Generator) -> np.ndarray:
    if cfg.selection == "static":
        return np.full(num_spans, cfg.length, dtype=np.int64)
    if cfg.selection == "uniform":
        lengths = rng.integers(int(cfg.other), 2 * cfg.length + 1, size=num_spans)
    elif cfg.selection == "normal":
        lengths = np.maximum(1, np.rint(rng.normal(cfg.length, cfg.other, size=num_spans))).astype(np.int64)
    else:
        lengths = rng.poisson(cfg.length, size=num_spans)
    if lengths.sum() == 0:
        lengths[0] = max(1, min(cfg.length, size - 1))  # fairseq: one span at least
    return lengths


def _overlapping(size: int, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distinct starts. fairseq: the shortest span ends before the last frame, which static spans therefore never
    mask.
    """
    room = size - int(lengths.min())
    if room <= len(lengths):
        room = len(lengths) + 1  # an axis that its spans fill: starts may then lie anywhere, and past the end
    return rng.choice(room, len(lengths), replace=False)


def _apart(size: int, lengths: np.ndarray, min_space: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of spans that do not overlap; from the first that finds no room on, they are left out.

    The longest are placed first, each in a free part that is drawn in proportion to its size. As in fairseq, the part
    before a span may come one frame closer to it than `min_space`, and parts shorter than the shortest span are given
    up.
    """
    shortest = int(lengths.min())
    part_starts, part_ends = [0], [size]
    starts, placed = [], []
    for length in sorted(lengths.tolist(), reverse=True):
        weights = [e - s if e - s >= length + min_space else 0 for s, e in zip(part_starts, part_ends, strict=False)]
        total = sum(weights)
        if total == 0:
            break
        at = rng.random() * total
        part = 0
        while at >= weights[part]:
            at -= weights[part]
            part += 1
        begin, end = part_starts.pop(part), part_ends.pop(part)
        start = begin + int(rng.random() * max(1, end - length - begin))
        starts.append(start)
        placed.append(length)
        if start - begin - min_space >= shortest:
            part_starts.append(begin)
            part_ends.append(start - min_space + 1)
        if end - start - length - min_space > shortest:
            part_starts.append(start + length + min_space)
            part_ends.append(end)
    return np.asarray(starts, dtype=np.int64), np.asarray(placed, dtype=np.int64)


def positions_and_weights(mask: np.ndarray, max_masked: int) -> tuple[np.ndarray, np.ndarray]:
    """The static-shape form of boolean masks.

    Args:
        mask: bool, B x T.
        max_masked: M, at least the largest row's count.
    Returns:
        positions: int64, B x M, the masked frames in ascending order, then zeros.
        weights: float32, B x M, 1 for masked frames and 0 for filler; all 0 in rows with fewer than two masked frames:
            no negative.
    """
    counts = mask.sum(axis=1)
    assert counts.max(initial=0) <= max_masked, "a row has more masked frames than its settings can draw"
    rows, frames = np.nonzero(mask)
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = np.zeros((len(mask), max_masked), dtype=np.int64)
    positions[rows, slots] = frames
    weights = (np.arange(max_masked) < counts[:, None]) & (counts[:, None] >= 2)
    return positions, weights.astype(np.float32)


def draw_negatives(num_masked: int, max_masked: int, num_negatives: int, rng: np.random.Generator) -> np.ndarray:
    """Negatives of each masked frame of one utterance: uniform over its other masked frames, with replacement.

    Returns:
        int64, M x N, positions among the utterance's masked frames; zeros where the row is filler.
    """
    negatives = np.zeros((max_masked, num_negatives), dtype=np.int64)
    if num_masked >= 2:
        drawn = rng.integers(0, num_masked - 1, size=(num_masked, num_negatives))
        negatives[:num_masked] = drawn + (drawn >= np.arange(num_masked)[:, None])  # step over the positive itself
    return negatives
