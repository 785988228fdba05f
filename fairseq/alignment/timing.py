"""The best path as words and letters, with frames and scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fairseq.alignment.spelling import STAR, Spelling
from fairseq.alignment.viterbi import Path
from fairseq.decoding.tokens import DELIMITER

SHORTEST_STAR = 5  # frames (100 ms): other speech that was only allowed for is reported from this length


class UnitFrames(NamedTuple):
    """A letter, or another unit of the dictionary."""

    text: str
    first: int  # frame
    last: int
    score: float  # mean log-probability of its frames


class WordFrames(NamedTuple):
    """A word, or a stretch of other speech."""

    text: str
    normal: str  # in the dictionary's letters, with STAR for others
    first: int  # frame of its first unit
    last: int  # last frame of its last unit
    score: float  # mean log-probability of its units' frames
    agreement: float  # in (0, 1]: geometric mean over all frames of its probability divided by the largest one
    units: tuple[UnitFrames, ...]

    @property
    def confidence(self) -> float:
        """The score as a probability, in [0, 1], as in transcripts."""
        return math.exp(min(0.0, self.score))

    @property
    def is_star(self) -> bool:
        return self.text == STAR


def words_of(path: Path, best: np.ndarray, spelling: Spelling) -> list[WordFrames]:
    """Return the words of a path.

    Args:
        best: largest log-probability of each frame, T.
    """
    count = len(spelling.units)
    spoken = np.flatnonzero(path.positions >= 0)
    labels = path.positions[spoken]
    numbers = np.arange(count)
    firsts = spoken[np.searchsorted(labels, numbers, side="left")]
    lasts = spoken[np.searchsorted(labels, numbers, side="right") - 1]
    total = np.concatenate([[0.0], np.cumsum(path.log_probs, dtype=np.float64)])
    lost = np.concatenate([[0.0], np.cumsum(path.log_probs.astype(np.float64) - best)])
    sums, lengths = total[lasts + 1] - total[firsts], lasts - firsts + 1
    words = []
    for word in spelling.words:
        first, last = int(firsts[word.first]), int(lasts[word.last])
        if word.may_be_absent and last - first + 1 < SHORTEST_STAR:
            continue
        own = [n for n in range(word.first, word.last + 1) if spelling.units[n] != DELIMITER]
        units = tuple(
            UnitFrames(
                STAR if word.text == STAR else spelling.units[n],
                int(firsts[n]),
                int(lasts[n]),
                float(sums[n] / lengths[n]),
            )
            for n in own
        )
        score = float(sums[own].sum() / lengths[own].sum())
        agreement = math.exp(min(0.0, float(lost[last + 1] - lost[first]) / (last + 1 - first)))
        words.append(WordFrames(word.text, word.normal, first, last, score, agreement, units))
    return words
