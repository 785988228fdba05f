"""Error rates: insertions, deletions and substitutions over the length of the references, counted by jiwer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Errors(NamedTuple):
    """Errors over what they are errors of; those of several sets add up by field."""

    errors: int
    total: int

    def rate(self) -> float:
        """Per cent; not a number where there is no reference."""
        return 100 * self.errors / self.total if self.total else float("nan")


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """Errors of words, of all utterances together."""
    if not references:
        return Errors(0, 0)
    import jiwer

    return _counted(jiwer.process_words(list(references), list(hypotheses)))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """The same of characters, spaces between words included."""
    if not references:
        return Errors(0, 0)
    import jiwer

    return _counted(jiwer.process_characters(list(references), list(hypotheses)))


def unit_errors(references: Sequence[Iterable[int]], hypotheses: Sequence[Iterable[int]]) -> Errors:
    """The same of units, given by number."""
    return word_errors(
        [" ".join(map(str, units)) for units in references], [" ".join(map(str, units)) for units in hypotheses]
    )


def _counted(measured: Any) -> Errors:
    errors = measured.substitutions + measured.deletions + measured.insertions
    return Errors(errors, measured.hits + measured.substitutions + measured.deletions)


def best_path(labels: np.ndarray, blank: int) -> np.ndarray:
    """Units of a row of frame labels: runs become one, blanks go (Graves et al. 2006, section 3.2)."""
    changed = np.ones(len(labels), dtype=bool)
    changed[1:] = labels[1:] != labels[:-1]
    return labels[changed & (labels != blank)]
