"""Error rates: (insertions + deletions + substitutions) / length of the references, counted by jiwer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Errors(NamedTuple):
    """Number of errors and number of reference items; add the fields to combine sets."""

    errors: int
    total: int

    def rate(self) -> float:
        """Return the error rate in per cent; NaN if the references are empty."""
        return 100 * self.errors / self.total if self.total else float("nan")


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """Count word errors over all utterances."""
    if not references:
        return Errors(0, 0)
    import jiwer

    return _counted(jiwer.process_words(list(references), list(hypotheses)))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """Count character errors over all utterances, including spaces between words."""
    if not references:
        return Errors(0, 0)
    import jiwer

    return _counted(jiwer.process_characters(list(references), list(hypotheses)))


def unit_errors(references: Sequence[Iterable[int]], hypotheses: Sequence[Iterable[int]]) -> Errors:
    """Count unit errors over all utterances; units are given by index."""
    return word_errors(
        [" ".join(map(str, units)) for units in references], [" ".join(map(str, units)) for units in hypotheses]
    )


def _counted(measured: Any) -> Errors:
    errors = measured.substitutions + measured.deletions + measured.insertions
    return Errors(errors, measured.hits + measured.substitutions + measured.deletions)


def best_path(labels: np.ndarray, blank: int) -> np.ndarray:
    """Collapse a row of frame labels to units: merge repetitions, drop blanks (Graves et al. 2006, section 3.2)."""
    changed = np.ones(len(labels), dtype=bool)
    changed[1:] = labels[1:] != labels[:-1]
    return labels[changed & (labels != blank)]
