"""Prefix beam search with a lexicon, an n-gram language model, or both, by flashlight-text and KenLM (extra `decode`)."""

from __future__ import annotations

import logging
import math
import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fairseq.decoding.hypothesis import Hypothesis, from_path
from fairseq.decoding.language_model import LanguageModel, check_letters, check_words, read_language_model
from fairseq.decoding.lexicon import Entry, read_lexicon, spell
from fairseq.decoding.tokens import Tokens
from fairseq.installed import advice

logger = logging.getLogger(__name__)

_IMPOSSIBLE = -1e4  # log-probability of all but the delimiter in the frame that is added at the end
_PLACE_IN_KENLM = re.compile(r"^.*? threw \w+( because `.*?'\.)?\s*")  # its own file, function and condition, before what is wrong


@dataclass
class BeamSettings:
    """Settings of the search; fairseq's names and defaults."""

    beam: int = 50  # hypotheses kept
    beam_size_token: int | None = None  # likeliest tokens that a frame may add; None: all
    beam_threshold: float = 50.0  # hypotheses this much worse than the best one are dropped
    lm_weight: float = 2.0  # of the language model's log10-probability
    word_score: float = -1.0  # added for each word
    unk_weight: float = -math.inf  # added for a word that is not in the lexicon; none is admitted at -inf
    sil_weight: float = 0.0  # added for each frame of the delimiter
    log_add: bool = True  # probabilities of the paths to one prefix are added; False: the likeliest path stands for all


class Vocabulary(NamedTuple):
    """What the search goes by, read and checked once: the lexicon's words, the language model, and what to warn of."""

    entries: list[Entry]  # empty: there is no lexicon
    model: LanguageModel | None
    of_units: bool  # the language model's words are the dictionary's units
    warnings: list[str]


def read_vocabulary(tokens: Tokens, lexicon: str | None, language_model: str | None) -> Vocabulary:
    """Read a lexicon and a language model and compare them with the dictionary and each other.

    A model of words without a lexicon brings its own: all its words, spelled by their letters.

    Raises:
        ValueError: neither is given, one cannot be read, or they do not fit; names lines.
    """
    if lexicon is None and language_model is None:
        raise ValueError("a beam search needs a lexicon, a language model, or both; without them the greedy decoder finds the same text")
    entries = [] if lexicon is None else read_lexicon(lexicon, tokens)
    if language_model is None:
        return Vocabulary(entries, None, False, [])
    model = read_language_model(language_model)
    if model.is_of_units(tokens):
        return Vocabulary(entries, model, True, [])
    if lexicon is not None:
        return Vocabulary(entries, model, False, check_words(model, entries, lexicon))
    entries = spell(model.vocabulary.items(), tokens)
    return Vocabulary(entries, model, False, check_letters(model, entries, tokens))


class BeamDecoder:
    """Prefix beam search.

    Args:
        tokens: the dictionary.
        vocabulary: lexicon, language model, or both.
        settings: beam and weights.
        nbest: hypotheses returned.
    Raises:
        ValueError: the extra `decode` is not installed, or the language model is damaged.
    """

    def __init__(self, tokens: Tokens, vocabulary: Vocabulary, settings: BeamSettings, nbest: int = 1) -> None:
        self.tokens, self.vocabulary, self.nbest = tokens, vocabulary, nbest
        self._words = list(dict.fromkeys(entry.word for entry in vocabulary.entries))
        self._flashlight = _flashlight()
        self._lm = self._language_model()
        self._trie = self._build_trie() if vocabulary.entries else None
        self.configure(settings)

    def configure(self, settings: BeamSettings) -> None:
        """Search with other settings from now on; lexicon and language model stay loaded."""
        self.settings = settings
        library, tokens = self._flashlight, self.tokens
        common = {
            "beam_size": settings.beam,
            "beam_size_token": settings.beam_size_token or len(tokens.symbols),
            "beam_threshold": settings.beam_threshold,
            "lm_weight": settings.lm_weight if self.vocabulary.model is not None else 0.0,
            "sil_score": settings.sil_weight,
            "log_add": settings.log_add,
            "criterion_type": library.CriterionType.CTC,
        }
        silence = tokens.blank if tokens.delimiter is None else tokens.delimiter
        if self._trie is None:
            options = library.LexiconFreeDecoderOptions(**common)
            self._search = library.LexiconFreeDecoder(options, self._lm, silence, tokens.blank, [])
        else:
            options = library.LexiconDecoderOptions(word_score=settings.word_score, unk_score=settings.unk_weight, **common)
            unknown, of_units = len(self._words), self.vocabulary.of_units
            self._search = library.LexiconDecoder(options, self._trie, self._lm, silence, tokens.blank, unknown, [], of_units)

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The best readings of log-probabilities T x V, the best one first; an empty one where there is no frame."""
        frames = len(log_probs)
        if frames == 0:
            return [Hypothesis([], [], 0.0)]
        emissions = np.ascontiguousarray(self._with_end(log_probs), dtype=np.float32)
        found = self._search.decode(emissions.ctypes.data, *emissions.shape)
        hypotheses = [self._hypothesis(result, log_probs) for result in found[: max(self.nbest, 1)]]
        return hypotheses or [Hypothesis([], [], -math.inf)]

    def _with_end(self, log_probs: np.ndarray) -> np.ndarray:
        """One more frame, in which a last word without delimiter gets it: the search only ends where a word does."""
        if self.tokens.delimiter is None:
            return log_probs
        end = np.full((1, log_probs.shape[1]), _IMPOSSIBLE, dtype=log_probs.dtype)
        end[0, self.tokens.delimiter] = 0
        return np.concatenate([log_probs, end])

    def _hypothesis(self, result: Any, log_probs: np.ndarray) -> Hypothesis:
        frames = len(log_probs)
        path = np.asarray(result.tokens[1 : frames + 1])  # before the first frame and after the last stands the delimiter
        own = np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0]
        labels = None
        if self._trie is not None:
            labels = [(self._words[word], frame) for frame, word in enumerate(result.words, start=-1) if 0 <= word < len(self._words)]
        return from_path(path, own, self.tokens, result.score, labels)

    # -- what the library is given -------------------------------------------------------------------------------------------------

    def _language_model(self) -> Any:
        if self.vocabulary.model is None:
            return self._flashlight.ZeroLM()
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        known = Dictionary()
        for word in self.tokens.symbols if self.vocabulary.of_units else [*self._words, "<unk>"]:
            known.add_entry(word)
        path = self.vocabulary.model.path
        try:
            return KenLM(path, known)
        except RuntimeError as error:
            reason = _PLACE_IN_KENLM.sub("", " ".join(str(error).split()))
            raise ValueError(f"KenLM cannot read the language model {path}: {reason}") from error

    def _build_trie(self) -> Any:
        """The lexicon as a tree of units, each word with what the language model gives it at the start of a sentence."""
        index = self.tokens.index()
        numbers = {word: number for number, word in enumerate(self._words)}
        silence = self.tokens.blank if self.tokens.delimiter is None else self.tokens.delimiter
        trie = self._flashlight.Trie(len(self.tokens.symbols), silence)
        start = self._lm.start(False)
        for entry in self.vocabulary.entries:
            score = 0.0
            if self.vocabulary.model is not None and not self.vocabulary.of_units:
                _, score = self._lm.score(start, numbers[entry.word])
            trie.insert([index[unit] for unit in entry.spelling], numbers[entry.word], score)
        trie.smear(self._flashlight.SmearingMode.MAX)
        return trie


def read_beam(
    tokens: Tokens,
    lexicon: str | os.PathLike[str] | None,
    language_model: str | os.PathLike[str] | None,
    settings: BeamSettings,
    nbest: int = 1,
) -> BeamDecoder:
    """A decoder by the names of its files; what does not fit fully is logged."""
    vocabulary = read_vocabulary(tokens, _text(lexicon), _text(language_model))
    for warning in vocabulary.warnings:
        logger.warning(warning)
    return BeamDecoder(tokens, vocabulary, settings, nbest)


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _flashlight() -> Any:
    try:
        import kenlm  # noqa: F401 - flashlight's own KenLM extension needs its library
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise ValueError(
            f"decoding with a lexicon or a language model needs flashlight-text and kenlm: {advice('decode')}"
        ) from error
    return decoder
