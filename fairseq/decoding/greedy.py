"""Greedy decoding: the most likely token of each frame."""

from __future__ import annotations

import numpy as np

from fairseq.decoding.hypothesis import Hypothesis, from_path
from fairseq.decoding.tokens import Tokens


class GreedyDecoder:
    """Take the most likely token of each frame, merge repetitions and drop blanks.

    Source: Graves et al. 2006, "best path decoding".
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Decode log-probabilities T x V to a single hypothesis."""
        path = log_probs.argmax(axis=1) if len(log_probs) else np.zeros(0, dtype=np.int64)
        best = np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0] if len(path) else np.zeros(0)
        return [from_path(path, best, self.tokens, float(best.sum(dtype=np.float64)))]
