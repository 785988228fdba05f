"""Hypotheses of a decoder: units and words with their frames and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fairseq.decoding.tokens import WORD_START, Tokens


class Word(NamedTuple):
    """A word, or a single unit."""

    text: str
    first: int  # frame of its first unit
    last: int  # last frame of its last unit
    confidence: float  # geometric mean over frames of the probabilities of its units; in [0, 1]


class Hypothesis(NamedTuple):
    """One transcription of an utterance."""

    units: list[Word]
    words: list[Word]
    score: float  # log-probability of the path, plus weighted language model and word scores if used

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def unit_text(self) -> str:
        """The units as in a `.ltr` file: separated by spaces, with "|" at word ends."""
        return " ".join(unit.text for unit in self.units)

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 0 if there are no words."""
        return float(np.mean([word.confidence for word in self.words])) if self.words else 0.0


class TokenRun(NamedTuple):
    """Consecutive frames with the same token."""

    token: int
    first: int
    last: int
    log_prob: float  # sum over its frames


def runs(path: np.ndarray, log_probs: np.ndarray, tokens: Tokens) -> list[TokenRun]:
    """Split a path into runs of equal tokens, without tokens that have no text.

    Args:
        path: one token per frame, T.
        log_probs: log-probability of each token, T.
    """
    if len(path) == 0:
        return []
    begins = np.concatenate([[0], np.flatnonzero(np.diff(path)) + 1])
    ends = np.concatenate([begins[1:], [len(path)]])
    sums = np.add.reduceat(log_probs.astype(np.float64), begins)
    found = zip(path[begins].tolist(), begins.tolist(), (ends - 1).tolist(), sums.tolist(), strict=True)
    return [TokenRun(*run) for run in found if run[0] not in tokens.silent]


def from_path(
    path: np.ndarray,
    log_probs: np.ndarray,
    tokens: Tokens,
    score: float,
    labels: Sequence[tuple[str, int]] | None = None,
) -> Hypothesis:
    """Convert a path of tokens to a hypothesis.

    Args:
        path: one token per frame, T.
        log_probs: log-probability of each token, T.
        score: score of the whole hypothesis.
        labels: words of a lexicon, each with the frame in which it ends; None: words are spelled by the units.
    """
    found = runs(path, log_probs, tokens)
    units = [_join([run], tokens.symbols[run.token]) for run in found]
    if tokens.kind == "none" and labels is None:
        return Hypothesis(units, units, score)
    return Hypothesis(units, _spelled(found, tokens) if labels is None else _labelled(found, tokens, labels), score)


def _spelled(found: list[TokenRun], tokens: Tokens) -> list[Word]:
    words, letters = [], []
    for run in [*found, None]:
        ends = run is None or run.token == tokens.delimiter or tokens.symbols[run.token].startswith(WORD_START)
        if ends and letters:
            words.append(
                _join(letters, "".join(tokens.symbols[letter.token] for letter in letters).removeprefix(WORD_START))
            )
            letters = []
        if run is not None and run.token != tokens.delimiter:
            letters.append(run)
    return [word for word in words if word.text]


def _labelled(found: list[TokenRun], tokens: Tokens, labels: Sequence[tuple[str, int]]) -> list[Word]:
    words, letters = [], [run for run in found if run.token != tokens.delimiter]
    for text, complete in labels:
        own = [run for run in letters if run.first <= complete]
        letters = letters[len(own) :]
        if own:
            words.append(_join(own, text))
        else:  # a word that ends in the same frame as the previous one
            before = words[-1].last if words else 0
            words.append(Word(text, before, before, 0.0))
    return words


def _join(members: list[TokenRun], text: str) -> Word:
    frames = sum(run.last - run.first + 1 for run in members)
    confidence = float(np.exp(min(0.0, sum(run.log_prob for run in members) / frames)))
    return Word(text, members[0].first, members[-1].last, confidence)
