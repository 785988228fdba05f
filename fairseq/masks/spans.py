"""The spans of one mask: frames or channels of an utterance, drawn on the host from a keyed generator, and the
largest count that can come of it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fairseq.masks.settings import MaskConfig

_FEWEST_OF_EIGHT = 1.42  # deviations below the mean: where the smallest of eight normal draws lies on average
_SAMPLE_ROWS, _SAMPLE_FRAMES = 256, 1000  # what the mean and deviation of masked frames are taken from


def max_spans(size: int, cfg: MaskConfig) -> int:
    """The most spans that `draw_mask` asks for on an axis of this size."""
    return max(cfg.min_masks, math.ceil(cfg.prob * size / cfg.length))


def max_masked_frames(size: int, cfg: MaskConfig) -> int:
    """M: the largest count that `draw_mask` can mask on an axis of this size; a function of the size and the settings
    alone.

    Where lengths have no upper end, as with normal and poisson, it is the size itself if rows are not cut.
    """
    if size <= 0 or (cfg.prob <= 0 and cfg.min_masks == 0):
        return 0
    drawn = _most_drawn(size, cfg)
    return min(drawn, common_count(size, cfg)) if cfg.same_count else drawn


def _most_drawn(size: int, cfg: MaskConfig) -> int:
    spans = max_spans(size, cfg)
    lengths = cfg.lengths
    longest = lengths.longest()
    if longest is None:
        return size
    reachable = size
    if lengths.are_equal and not cfg.no_overlap and size - longest > spans:
        reachable = size - 1  # the last frame is never masked: see `_overlapping`
    return min(reachable, spans * longest)


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
    lengths = cfg.lengths.draw(num_spans, rng)
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
