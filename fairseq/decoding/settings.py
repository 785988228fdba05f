"""Settings of the beam search."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class BeamSettings:
    """Settings of the beam search, with fairseq's names and defaults.

    Raises:
        ValueError: a count is below 1, or a weight is not finite; the message names it.
    """

    beam: int = 50  # hypotheses kept
    beam_size_token: int | None = None  # most likely tokens considered per frame; None: all
    beam_threshold: float = 50.0  # hypotheses this much worse than the best one are dropped
    lm_weight: float = 2.0  # of the language model's log10-probability
    word_score: float = -1.0  # added for each word
    unk_weight: float = -math.inf  # added for a word that is not in the lexicon; -inf: no such words
    sil_weight: float = 0.0  # added for each frame of the delimiter
    log_add: bool = True  # add the probabilities of all paths to a prefix; False: take the most likely path

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            allowed = allowed_instead(name, value)
            if allowed is not None:
                raise ValueError(f"{name} is {value}; it must be {allowed}")


def allowed_instead(name: str, value: float | None) -> str | None:
    """Return what a setting must be, or None if `value` is allowed."""
    if value is None or name == "log_add":
        return None
    if name in ("beam", "beam_size_token"):
        return "at least 1" if value < 1 else None
    if name == "unk_weight":
        return None if math.isfinite(value) or value == -math.inf else "a finite number, or -inf"
    return None if math.isfinite(value) else "a finite number"
