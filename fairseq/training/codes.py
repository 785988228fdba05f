"""How a quantizer's codewords were used: perplexity, dead codewords, and change, from exact counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fairseq.logging.metrics_file import Json

Counts = Sequence[Sequence[int]]  # G x V: how often each codeword of each group was used


def by_group(counts: Sequence[int], groups: int) -> list[list[int]]:
    """Split the counts of all codewords, G*V, by group."""
    size = len(counts) // groups
    return [list(counts[group * size : (group + 1) * size]) for group in range(groups)]


def perplexity(counts: Sequence[int]) -> float:
    """Return the exponential of the entropy of one group's use; 0 if nothing was counted."""
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts if count > 0)
    return math.exp(entropy) if total > 0 else 0.0


def changed(counts: Counts, before: Counts) -> float | None:
    """Return how much the use of codewords changed: the total variation distance, the mean over groups.

    That is the share of frames, 0 to 1, that would need another codeword to turn one use into the other. None if one of
    them has no counts, or they have other groups or codewords.
    """
    sizes = [[len(group) for group in each] for each in (counts, before)]
    if not counts or sizes[0] != sizes[1] or any(sum(group) == 0 for group in (*counts, *before)):
        return None
    distances = []
    for now, then in zip(counts, before, strict=True):
        all_now, all_then = sum(now), sum(then)
        distances.append(sum(abs(a / all_now - b / all_then) for a, b in zip(now, then, strict=True)) / 2)
    return sum(distances) / len(distances)


def use(counts: Counts, last: Mapping[str, object] | None) -> dict[str, Json]:
    """Describe the use of a codebook, as a line of `codes.jsonl`.

    Args:
        last: the line before of the same split; None: there isn't one.
    """
    before = [] if last is None else last.get("counts")
    change = changed(counts, before) if isinstance(before, list) else None
    return {
        "counts": [list(group) for group in counts],
        "perplexity": [round(perplexity(group), 4) for group in counts],
        "dead": [sum(count == 0 for count in group) for group in counts],
        "changed": None if change is None else round(change, 6),
    }
