"""The columns of the model's outputs that a text needs: its symbols, the blank, and the star."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairseq.alignment.spelling import GAP, STAR
from fairseq.decoding.tokens import Tokens

STAR_COST = 0.1  # nats per frame, below the frame's most probable symbol: with 0, a star would take the text's frames
# Nats per frame of a gap, below the blank: a gap has one frame at least, which it takes from silence rather than from a
# word next to it; but no more silence than that
GAP_COST = 0.01


class Columns:
    """Picks the columns, and adds those that the model does not have.

    A star's log-probability is the frame's largest one less `STAR_COST`: it fits everything nearly as well as whatever
    the model heard. A gap's is the largest one of star, delimiter, if there is one, and blank less `GAP_COST`. Column 0
    is the blank.

    Args:
        units: symbols of the dictionary, STAR or GAP.
    """

    def __init__(self, units: Sequence[str], tokens: Tokens) -> None:
        kinds = list(dict.fromkeys(units))
        numbers = {kind: column for column, kind in enumerate(kinds, start=1)}
        self.labels = np.array([numbers[unit] for unit in units], dtype=np.int64)
        outputs = tokens.outputs()
        self._outputs = np.array([tokens.blank, *(outputs.get(kind, tokens.blank) for kind in kinds)])
        self._delimiter = tokens.delimiter
        self._star, self._gap = numbers.get(STAR), numbers.get(GAP)

    def of(self, log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns, T x K, and the largest log-probability of each frame, T.

        Args:
            log_probs: the model's outputs, T x V, float32.
        """
        best = log_probs.max(axis=1)
        found = log_probs.take(self._outputs, axis=1)  # rows stay contiguous
        star = best - np.float32(STAR_COST)
        if self._star is not None:
            found[:, self._star] = star
        if self._gap is not None:
            gap = np.maximum(star, found[:, 0] - np.float32(GAP_COST))
            found[:, self._gap] = gap if self._delimiter is None else np.maximum(gap, log_probs[:, self._delimiter])
        return found, best
