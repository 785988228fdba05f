"""What hypotheses of a beam search can become in the next frame: units of a lexicon's words, or any units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.decoding.hotwords import HotUnits
from fairseq.decoding.scorer import Scorer
from fairseq.decoding.search import Beam
from fairseq.decoding.trie import ROOT, Trie


class Weights(NamedTuple):
    """Weights of a search; see BeamSettings."""

    lm: float
    word: float
    unknown: float
    silence: float


class WordExpansion:
    """Words of a lexicon.

    Args:
        trie: the lexicon.
        scorer: language model of words, or of units if `of_units`.
        blank: the CTC blank.
        silence: the token between words, or the blank if there is none.
        unknown: number of the unknown word.
        boosts: per word, added to its score.
    """

    def __init__(
        self, trie: Trie, scorer: Scorer, of_units: bool, blank: int, silence: int, unknown: int, boosts: np.ndarray
    ) -> None:
        self.trie, self.scorer, self.of_units, self.boosts = trie, scorer, of_units, boosts
        self.num_nodes, self._blank, self._silence, self._unknown = len(trie), blank, silence, unknown
        # what the best word below a node will add, as known before it ends
        self._ahead_lm = np.zeros(len(trie))
        if not of_units:
            self._ahead_lm = trie.smear(lambda word: scorer.score(scorer.begin, word)[0])
        self._ahead_boost = trie.smear(lambda word: boosts[word])
        self.weights = Weights(0.0, 0.0, -np.inf, 0.0)
        self._contexts: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def configure(self, weights: Weights) -> None:
        self.weights = weights
        self._ahead = weights.lm * self._ahead_lm + self._ahead_boost

    def start(self) -> int:
        self._contexts, self._children = [self.scorer.begin], {}
        return 0

    def candidates(self, beam: Beam, frame: np.ndarray, usable: np.ndarray | None) -> list[Beam]:
        """Return the next units of all hypotheses, words that end, the same unit again, and the blank."""
        trie, at_root = self.trie, beam.node == ROOT
        rows = np.repeat(np.arange(len(beam.node)), trie.num_children[beam.node])
        below = trie.num_children[beam.node]
        child = np.arange(len(rows)) - np.repeat(np.cumsum(below) - below - trie.first_child[beam.node], below)
        token = trie.unit[child]
        if usable is not None:
            rows, child, token = (part[usable[token]] for part in (rows, child, token))
        score = beam.score[rows] + frame[token] + self.weights.silence * (token == self._silence)
        history, extra = beam.history[rows], self._ahead[child] - self._ahead[beam.node[rows]]
        if self.of_units:
            history, extra = self._next_units(history, token)
            extra = self.weights.lm * extra
        on = (trie.num_children[child] > 0) & (beam.blank[rows] | (token != beam.token[rows]))
        same = np.flatnonzero(~beam.blank | at_root)
        again = np.where(at_root, self._silence, beam.token)[same]
        everyone = np.arange(len(beam.node))
        found = [
            Beam.of(score[on] + extra[on], history[on], child[on], token[on], rows[on]),
            Beam.of(
                beam.score[same] + frame[again] + self.weights.silence * (again == self._silence),
                beam.history[same],
                beam.node[same],
                again,
                same,
            ),
            Beam.of(beam.score + frame[self._blank], beam.history, beam.node, self._blank, everyone, blank=True),
        ]
        # a word of one unit must not end again in the next frame of the same unit
        repeats = at_root[rows] & (beam.token[rows] == token)
        ends = np.flatnonzero(trie.has_words[child] & ~repeats)
        found.append(self._words(beam, rows[ends], child[ends], token[ends], score[ends], history[ends], extra[ends]))
        if self.weights.unknown > -np.inf:
            ends = np.flatnonzero(~trie.has_words[child])
            found.append(self._unknowns(beam, rows[ends], token[ends], score[ends], history[ends], extra[ends]))
        return found

    def _words(
        self,
        beam: Beam,
        rows: np.ndarray,
        child: np.ndarray,
        token: np.ndarray,
        score: np.ndarray,
        history: np.ndarray,
        extra: np.ndarray,
    ) -> Beam:
        """Return candidates for each word of these nodes, N each."""
        words = self.trie.words
        pairs = [(place, word) for place, node in enumerate(child.tolist()) for word in words[node]]
        place = np.array([first for first, _ in pairs], dtype=np.int64)
        label = np.array([second for _, second in pairs], dtype=np.int64)
        if self.of_units:
            after, gained = history[place], extra[place]
        else:
            after, lm = self._next_words(beam.history[rows][place], label)
            gained = self.weights.lm * lm - self._ahead[beam.node[rows]][place] + self.boosts[label]
        total = score[place] + gained + self.weights.word
        return Beam.of(total, after, np.full(len(place), ROOT), token[place], rows[place], label=label)

    def _unknowns(
        self,
        beam: Beam,
        rows: np.ndarray,
        token: np.ndarray,
        score: np.ndarray,
        history: np.ndarray,
        extra: np.ndarray,
    ) -> Beam:
        """Return candidates for an unknown word that ends here."""
        if not self.of_units:
            history, lm = self._next_words(beam.history[rows], np.full(len(rows), self._unknown))
            extra = self.weights.lm * lm - self._ahead[beam.node[rows]]
        total = score + extra + self.weights.unknown
        return Beam.of(total, history, np.full(len(rows), ROOT), token, rows, label=self._unknown)

    def _next_words(self, histories: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after, scores = np.empty(len(words), dtype=np.int64), np.empty(len(words))
        contexts, children = self._contexts, self._children
        for place, key in enumerate(zip(histories.tolist(), words.tolist(), strict=True)):
            scores[place], context = self.scorer.score(contexts[key[0]], key[1])
            number = after[place] = children.setdefault(key, len(contexts))
            if number == len(contexts):
                contexts.append(context)
        return after, scores

    _next_units = _next_words

    def finish(self, beam: Beam) -> tuple[np.ndarray, np.ndarray]:
        """Return the hypotheses at word ends, or all if there are none, and the scores of ending."""
        ends = np.flatnonzero(beam.node == ROOT)
        if len(ends) == 0:
            ends = np.arange(len(beam.node))
        contexts = [self._contexts[history] for history in beam.history[ends].tolist()]
        return ends, self.weights.lm * np.array([self.scorer.finish(context) for context in contexts])


class UnitExpansion:
    """Any sequence of units, scored by a language model of units.

    Args:
        num_tokens: V.
        scorer: language model of units.
        blank: the CTC blank.
        silence: the token between words, or the blank if there is none.
        hot: boosts of words by their units; None: no boosts.
    """

    num_nodes = 1

    def __init__(self, num_tokens: int, scorer: Scorer, blank: int, silence: int, hot: HotUnits | None = None) -> None:
        self.scorer, self._hot = scorer, hot
        self._num_tokens, self._blank, self._silence = num_tokens, blank, silence
        self.weights = Weights(0.0, 0.0, -np.inf, 0.0)

    def configure(self, weights: Weights) -> None:
        self.weights = weights
        self._rows: dict[tuple[int, int], tuple[np.ndarray, list[tuple[int, int]]]] = {}

    def start(self) -> int:
        # history h > 0 is unit (h - 1) % V after the history in row (h - 1) // V
        self._row_of: dict[int, int] = {}
        self._states = [(self.scorer.begin, 0)]
        self._scores: list[np.ndarray] = []
        self._following: list[list[tuple[int, int]]] = []
        return 0

    def _state(self, history: int) -> tuple[int, int]:
        """Return the context of the language model, and the node of the boosts."""
        if history == 0:
            return self.scorer.begin, 0
        row, unit = divmod(history - 1, self._num_tokens)
        return self._following[row][unit]

    def _row(self, history: int) -> int:
        """Return the row of a history's following units; a new one is made the first time."""
        row = self._row_of.setdefault(history, len(self._scores))
        if row == len(self._scores):
            state = self._state(history)
            known = self._rows.get(state)
            if known is None:
                known = self._rows[state] = self._scored(state)
            self._scores.append(known[0])
            self._following.append(known[1])
        return row

    def _scored(self, state: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, int]]]:
        context, node = state
        found = [self.scorer.score(context, unit) for unit in range(self._num_tokens)]
        scores = self.weights.lm * np.array([score for score, _ in found])
        nodes = [0] * self._num_tokens
        if self._hot is not None:
            boosts, nodes = self._hot.step(node)
            scores = scores + boosts
        return scores, [(after, place) for (_, after), place in zip(found, nodes, strict=True)]

    def candidates(self, beam: Beam, frame: np.ndarray, usable: np.ndarray | None) -> list[Beam]:
        """Return all hypotheses followed by each unit; a unit that repeats the previous frame's is the same one."""
        size, num_tokens = len(beam.score), self._num_tokens
        rows = np.array([self._row(history) for history in beam.history.tolist()])
        scores = np.stack([self._scores[row] for row in rows.tolist()])
        shift = frame.copy()
        shift[self._silence] += self.weights.silence
        token = np.arange(num_tokens)
        same = (token == beam.token[:, None]) & ~beam.blank[:, None]  # H x V
        same[:, self._blank] = True
        score = beam.score[:, None] + shift + np.where(same, 0.0, scores)
        history = np.where(same, beam.history[:, None], 1 + rows[:, None] * num_tokens + token)
        considered = slice(None) if usable is None else np.flatnonzero(usable)
        tokens = np.broadcast_to(token, (size, num_tokens))[:, considered].ravel()
        parents = np.broadcast_to(np.arange(size)[:, None], (size, num_tokens))[:, considered].ravel()
        nodes = np.full(len(tokens), ROOT, dtype=np.int64)
        return [
            Beam.of(
                score[:, considered].ravel(),
                history[:, considered].ravel(),
                nodes,
                tokens,
                parents,
                blank=tokens == self._blank,
            )
        ]

    def finish(self, beam: Beam) -> tuple[np.ndarray, np.ndarray]:
        """Return all hypotheses, and the scores of ending."""
        scores = []
        for history in beam.history.tolist():
            context, node = self._state(history)
            boost = 0.0 if self._hot is None else self._hot.finish(node)
            scores.append(self.weights.lm * self.scorer.finish(context) + boost)
        return np.arange(len(beam.score)), np.array(scores)
