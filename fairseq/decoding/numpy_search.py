"""The beam search on every Python: `fairseq.decoding.search`, with a language model by KenLM's own package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairseq.decoding.expansion import UnitExpansion, Weights, WordExpansion
from fairseq.decoding.guidance import Guidance
from fairseq.decoding.hotwords import HotUnits
from fairseq.decoding.lexicon import Entry
from fairseq.decoding.scorer import KenLMScorer, NoModel, Scorer
from fairseq.decoding.search import Found, Limits, search
from fairseq.decoding.settings import BeamSettings
from fairseq.decoding.tokens import Tokens
from fairseq.decoding.trie import Trie


class NumpySearch:
    """Beam search in numpy; see `fairseq.decoding.beam.BeamDecoder`.

    Args:
        tokens: the dictionary.
        guidance: lexicon, language model and hot words.
        words: the lexicon's words; their places are their numbers.
    Raises:
        ValueError: KenLM is not installed.
        OSError: KenLM cannot read the language model.
    """

    def __init__(self, tokens: Tokens, guidance: Guidance, words: Sequence[str]) -> None:
        self._tokens, self._guidance, self._words = tokens, guidance, words
        self._scorer: Scorer = NoModel()
        if guidance.model is not None:
            names = tokens.symbols if guidance.of_units else [*words, "<unk>"]
            self._scorer = KenLMScorer(guidance.model.path, names)

    def likelihoods(self) -> dict[str, float]:
        """Return log10 of each word's probability without context; empty without a language model of words."""
        if self._guidance.model is None or self._guidance.of_units:
            return {}
        scorer = self._scorer
        return {word: scorer.score(scorer.anywhere, number)[0] for number, word in enumerate(self._words)}

    def load(self, entries: Sequence[Entry]) -> None:
        """Take the lexicon; empty: none."""
        tokens, hotwords = self._tokens, self._guidance.hotwords
        self._expansion: WordExpansion | UnitExpansion
        if not entries:
            hot = HotUnits(hotwords, tokens) if hotwords else None
            self._expansion = UnitExpansion(len(tokens.symbols), self._scorer, tokens.blank, tokens.silence, hot)
            return
        outputs = tokens.outputs()
        numbers = {word: number for number, word in enumerate(self._words)}
        trie = Trie(([outputs[unit] for unit in entry.spelling], numbers[entry.word]) for entry in entries)
        boosts = np.array([hotwords.get(word, 0.0) for word in self._words])
        self._expansion = WordExpansion(
            trie, self._scorer, self._guidance.of_units, tokens.blank, tokens.silence, len(self._words), boosts
        )

    def configure(self, settings: BeamSettings) -> None:
        """Change the settings; the lexicon and the language model stay loaded."""
        lm_weight = settings.lm_weight if self._guidance.model is not None else 0.0
        self._expansion.configure(Weights(lm_weight, settings.word_score, settings.unk_weight, settings.sil_weight))
        self._limits = Limits(settings.beam, settings.beam_size_token, settings.beam_threshold, settings.log_add)

    def decode(self, log_probs: np.ndarray, nbest: int) -> list[Found]:
        """Search log-probabilities T x V; returns at most `nbest` results, best first."""
        return search(self._expansion, self._limits, log_probs, self._tokens.silence, nbest)
