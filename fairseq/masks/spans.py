"""Draw the spans of one mask, over frames or channels, on the host, and bound how many positions they mask."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fairseq.masks.settings import MaskConfig

_FEWEST_OF_EIGHT = 1.42  # expected minimum of eight normal draws, in standard deviations below the mean
_SAMPLE_ROWS, _SAMPLE_FRAMES = 256, 1000  # sample size for the mean and variance of masked frames


def max_spans(size: int, cfg: MaskConfig) -> int:
    """Return the largest number of spans that `draw_mask` can draw on an axis of this size."""
    return max(cfg.min_masks, math.ceil(cfg.prob * size / cfg.length))


def max_masked_frames(size: int, cfg: MaskConfig) -> int:
    """Return M, the largest number of positions that `draw_mask` can mask on an axis of this size.

    M depends only on the size and the settings. Where lengths are unbounded, as with normal and poisson, it is the size
    itself unless rows are cut.
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
    """Return the number of masked frames that a row of this size is cut to with `same_count`; it grows with the size.

    fairseq cuts all rows of a batch to the row with the fewest, so a row depends on the rest of its batch, and one
    short padded row removes masks from all of them. Here the count depends only on the row's size: the expected minimum
    over eight rows of that size, but at least the length of a span. It is estimated from the mean and variance of long
    rows. Where `min_masks` determines the number of spans (short rows, small `prob`), rows are cut more than in
    fairseq; with `no_overlap` a little less, so more rows have fewer masked frames than this.
    """
    share, variance = _masked_share(cfg)
    return max(cfg.length, cfg.min_masks, math.floor(share * size - _FEWEST_OF_EIGHT * math.sqrt(variance * size)))


@lru_cache
def _masked_share(cfg: MaskConfig) -> tuple[float, float]:
    """Return mean and variance of the masked frames per frame, measured on rows so long that edges do not matter."""
    whole, rng = cfg._replace(same_count=False, dropout=0.0), np.random.default_rng(0)
    counts = np.array([draw_mask(_SAMPLE_FRAMES, whole, rng).sum() for _ in range(_SAMPLE_ROWS)])
    return float(counts.mean()) / _SAMPLE_FRAMES, float(counts.var()) / _SAMPLE_FRAMES


def draw_mask(size: int, cfg: MaskConfig, rng: np.random.Generator, num_spans: int | None = None) -> np.ndarray:
    """Draw one mask, `size` booleans: spans cut only at the end of the axis, and by `same_count` and `dropout`.

    Args:
        num_spans: number of spans; None draws it as fairseq does: prob * size / length, randomly rounded up or down,
            at least min_masks.
    Source: Baevski et al. 2020, section 3.1, with the rounding, lengths and placement of fairseq 0.12.2, so that the
    counts have the same distribution.
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
    """Unmask `count` random single frames in place, as fairseq does; do nothing if `count` is below 1."""
    if count > 0:
        mask[rng.choice(np.flatnonzero(mask), count, replace=False)] = False


def _cover(size: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return True where any span lies, cut at the end of the axis."""
    if (lengths == lengths[0]).all():  # static: takes a third of the general case's time
        mask = np.zeros(max(size, int(starts.max())) + int(lengths[0]), dtype=bool)
        mask[starts[:, None] + np.arange(lengths[0])] = True
        return mask[:size]
    # +1 where a span begins and -1 where it ends: the running sum is the number of spans at each frame
    begins = np.bincount(np.minimum(starts, size), minlength=size + 1)
    ends = np.bincount(np.minimum(starts + lengths, size), minlength=size + 1)
    return np.cumsum(begins - ends)[:size] > 0


def draw_span_count(size: int, cfg: MaskConfig, rng: np.random.Generator) -> int:
    """Draw the number of spans of one row: rounded up with a probability equal to the fractional part."""
    wanted = cfg.prob * size / cfg.length
    return max(cfg.min_masks, min(int(wanted + rng.random()), math.ceil(wanted)))  # min: guards against float rounding


def _draw_lengths(size: int, num_spans: int, cfg: MaskConfig, rng: np.random.Generator) -> np.ndarray:
    lengths = cfg.lengths.draw(num_spans, rng)
    if lengths.sum() == 0:
        lengths[0] = max(1, min(cfg.length, size - 1))  # fairseq: at least one span
    return lengths


def _overlapping(size: int, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct starts. fairseq: starts are below size - shortest span, so static spans never mask the last frame.

    If the axis has too little room for that many distinct starts, they may lie anywhere, even past the end.
    """
    room = size - int(lengths.min())
    if room <= len(lengths):
        room = len(lengths) + 1
    return rng.choice(room, len(lengths), replace=False)


def _apart(size: int, lengths: np.ndarray, min_space: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw starts and lengths of spans that do not overlap; drop the rest once a span no longer fits.

    Longest spans are placed first, each in a free part drawn in proportion to its size. As in fairseq, the gap before
    a span may be one frame shorter than `min_space`, and free parts shorter than the shortest span are discarded.
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
