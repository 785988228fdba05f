"""The beam search of flashlight-text, in C++: the same results as `fairseq.decoding.search`, and faster.

It has wheels for Python 3.10 to 3.12, with KenLM inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fairseq.decoding.guidance import Guidance
from fairseq.decoding.lexicon import Entry
from fairseq.decoding.scorer import plain_file
from fairseq.decoding.search import Found
from fairseq.decoding.settings import BeamSettings
from fairseq.decoding.tokens import Tokens


def flashlight_is_installed() -> bool:
    """Return whether flashlight-text can be imported."""
    try:
        from flashlight.lib.text import decoder  # noqa: F401
    except ImportError:
        return False
    return True


class FlashlightSearch:
    """Beam search with flashlight-text; see `fairseq.decoding.beam.BeamDecoder`.

    Args:
        tokens: the dictionary.
        guidance: lexicon, language model, or both; no hot words.
        words: the lexicon's words; their places are their numbers.
    Raises:
        RuntimeError: KenLM cannot read the language model.
    """

    def __init__(self, tokens: Tokens, guidance: Guidance, words: Sequence[str]) -> None:
        from flashlight.lib.text import decoder

        self._library, self._tokens, self._guidance, self._words = decoder, tokens, guidance, words
        self._lm = self._language_model()
        self._trie: Any = None

    def likelihoods(self) -> dict[str, float]:
        """Return log10 of each word's probability without context; empty without a language model of words."""
        if self._guidance.model is None or self._guidance.of_units:
            return {}
        anywhere = self._lm.start(True)
        return {word: self._lm.score(anywhere, number)[1] for number, word in enumerate(self._words)}

    def load(self, entries: Sequence[Entry]) -> None:
        """Take the lexicon; empty: none."""
        self._trie = self._build_trie(entries) if entries else None

    def configure(self, settings: BeamSettings) -> None:
        """Change the settings; the lexicon and the language model stay loaded."""
        library, tokens = self._library, self._tokens
        common = {
            "beam_size": settings.beam,
            "beam_size_token": settings.beam_size_token or len(tokens.symbols),
            "beam_threshold": settings.beam_threshold,
            "lm_weight": settings.lm_weight if self._guidance.model is not None else 0.0,
            "sil_score": settings.sil_weight,
            "log_add": settings.log_add,
            "criterion_type": library.CriterionType.CTC,
        }
        silence = tokens.silence
        if self._trie is None:
            options = library.LexiconFreeDecoderOptions(**common)
            self._search = library.LexiconFreeDecoder(options, self._lm, silence, tokens.blank, [])
        else:
            options = library.LexiconDecoderOptions(
                word_score=settings.word_score, unk_score=settings.unk_weight, **common
            )
            unknown, of_units = len(self._words), self._guidance.of_units
            self._search = library.LexiconDecoder(
                options, self._trie, self._lm, silence, tokens.blank, unknown, [], of_units
            )

    def decode(self, log_probs: np.ndarray, nbest: int) -> list[Found]:
        """Search log-probabilities T x V; returns at most `nbest` results, best first."""
        emissions = np.ascontiguousarray(log_probs, dtype=np.float32)
        results = self._search.decode(emissions.ctypes.data, *emissions.shape)[:nbest]
        return [_found(result, len(emissions)) for result in results]

    def _language_model(self) -> Any:
        if self._guidance.model is None:
            return self._library.ZeroLM()
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        known = Dictionary()
        for word in self._tokens.symbols if self._guidance.of_units else [*self._words, "<unk>"]:
            known.add_entry(word)
        with plain_file(self._guidance.model.path) as plain:
            return KenLM(plain, known)

    def _build_trie(self, entries: Sequence[Entry]) -> Any:
        """Build the lexicon as a trie of units, with each word's language model score at the start of a sentence."""
        index = self._tokens.outputs()
        numbers = {word: number for number, word in enumerate(self._words)}
        trie = self._library.Trie(len(self._tokens.symbols), self._tokens.silence)
        begin = self._lm.start(False)
        of_words = self._guidance.model is not None and not self._guidance.of_units
        for entry in entries:
            number = numbers[entry.word]
            score = self._lm.score(begin, number)[1] if of_words else 0.0
            trie.insert([index[unit] for unit in entry.spelling], number, score)
        trie.smear(self._library.SmearingMode.MAX)
        return trie


def _found(result: Any, frames: int) -> Found:
    # the result has a delimiter before the first frame and after the last one
    path = np.asarray(result.tokens[1 : frames + 1])
    return Found(result.score, path, [(word, frame) for frame, word in enumerate(result.words, start=-1) if word >= 0])
