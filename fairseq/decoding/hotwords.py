"""Hot words: words whose hypotheses get a bonus, such as names that the language model does not know."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from fairseq import text_files
from fairseq.decoding.tokens import Tokens

BOOST = 5.0  # natural logarithm, like the scores of hypotheses
_LARGEST = 100.0


def read_hotwords(value: str) -> dict[str, float]:
    """Read `WORD:BOOST,WORD,...`, or the name of a file with a `WORD` or `WORD BOOST` on each line.

    Returns:
        The boost of each word; `BOOST` where none is given.
    Raises:
        ValueError: a boost is not a number from -100 to 100, or there are no words; the message names the line.
    """
    if os.path.isfile(value):
        lines = enumerate(text_files.iterate_lines(value, "the hot words"), start=1)
        found = [(f"{value}, line {number}", text_files.split(line)) for number, line in lines]
    else:
        parts = [part.strip() for part in value.split(",")]
        found = [(f"--hotwords {value}", _at_last_colon(part)) for part in parts]
    words: dict[str, float] = {}
    for place, columns in found:
        if columns and columns[0]:
            words[columns[0]] = _boost(place, columns)
    if not words:
        raise ValueError(f"--hotwords {value} has no words: give WORD:BOOST,WORD or a file with a WORD on each line")
    return words


def _at_last_colon(part: str) -> list[str]:
    word, colon, boost = part.rpartition(":")
    return [word, boost] if colon and word else [part]


def _boost(place: str, columns: Sequence[str]) -> float:
    if len(columns) == 1:
        return BOOST
    try:
        boost = float(columns[1])
    except ValueError:
        boost = math.nan
    if len(columns) > 2 or not abs(boost) <= _LARGEST:
        raise ValueError(
            f"{place}: {' '.join(columns[1:])!r} is not a boost; it must be a number from {-_LARGEST:g} to {_LARGEST:g}"
        )
    return boost


def check_spellable(words: Mapping[str, float], known: set[str], tokens: Tokens) -> None:
    """Check that a search can find hot words.

    Args:
        known: words of the lexicon; empty: no lexicon.
    Raises:
        ValueError: a word is not in the lexicon, and the dictionary cannot spell it; the message names it.
    """
    letters = tokens.letters()
    of_words = tokens.kind == "none" and not known  # each unit is a word
    for word in words:
        if word in known or (word in letters if of_words else tokens.kind == "letter" and letters.issuperset(word)):
            continue
        if tokens.kind != "letter":
            what = "lexicon" if known else "dictionary; its units are not letters, so a new word needs a --lexicon"
            raise ValueError(f"the hot word {word} is not in the {what}")
        missing = " ".join(repr(letter) for letter in sorted(set(word) - letters))
        swapped = letters.issuperset(word.swapcase())
        raise ValueError(
            f"the hot word {word} cannot be spelled with the model's dictionary, which does not have {missing}. "
            + ("Only the case differs: write it in the dictionary's case" if swapped else "Add it to the lexicon")
        )


class HotUnits:
    """Boosts of words as they are spelled: each letter brings its part, which is lost if the word turns out another.

    Nodes are numbers: 0 is the start of a word, and the last one is inside a word that is not hot.

    Args:
        words: boost of each word.
        tokens: the dictionary; its units are letters, or whole words.
    """

    def __init__(self, words: Mapping[str, float], tokens: Tokens) -> None:
        self._delimiter, outputs = tokens.delimiter, tokens.outputs()
        self._num_tokens = len(tokens.symbols)
        self._silent = sorted(tokens.silent)
        children: list[dict[int, int]] = [{}]
        self._full: dict[int, float] = {}
        self._credit = [-math.inf]
        for word, boost in words.items():
            spelling = [outputs[letter] for letter in (word if tokens.delimiter is not None else [word])]
            node = 0
            for number, unit in enumerate(spelling, start=1):
                if unit not in children[node]:
                    children[node][unit] = len(children)
                    children.append({})
                    self._credit.append(-math.inf)
                node = children[node][unit]
                self._credit[node] = max(self._credit[node], boost * number / len(spelling))
            self._full[node] = boost
        self._credit[0] = 0.0
        self._credit.append(0.0)
        children.append({})
        self._children, self._other = children, len(children) - 1

    def step(self, node: int) -> tuple[np.ndarray, list[int]]:
        """Return what each unit adds to the score after a node, and the node that it leads to."""
        lost = -self._credit[node]
        following = [self._other] * self._num_tokens
        for unit, child in self._children[node].items():
            following[unit] = child
        scores = np.array([self._credit[child] for child in following]) + lost
        for unit in self._silent:
            following[unit], scores[unit] = node, 0.0
        if self._delimiter is None:  # each unit is a word
            return scores, [0] * self._num_tokens
        following[self._delimiter], scores[self._delimiter] = 0, self.finish(node)
        return scores, following

    def finish(self, node: int) -> float:
        """Return what the end of a word adds after a node."""
        return self._full.get(node, 0.0) - self._credit[node]
