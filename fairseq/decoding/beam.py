"""Prefix beam search with a lexicon, an n-gram language model, or both, by flashlight-text and KenLM (extra
`decode`).
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.decoding.hypothesis import Hypothesis, from_path
from fairseq.decoding.language_model import LanguageModel, check_letters, check_words, read_language_model
from fairseq.decoding.lexicon import Entry, read_lexicon, spell
from fairseq.decoding.tokens import Tokens
from fairseq.installed import advice

logger = logging.getLogger(__name__)

_SHOWN = 5  # lines that a message names
HOMOPHONES = 6  # words of one spelling that flashlight's trie holds; it drops further ones without a word
_IMPOSSIBLE = -1e4  # log-probability of all but the delimiter in the frame that is added at the end
# its own file, function and condition, before what is wrong
_PLACE_IN_KENLM = re.compile(r"^.*? threw \w+( because `.*?')?\.?\s*")


@dataclass
class BeamSettings:
    """Settings of the search; fairseq's names and defaults.

    Raises:
        ValueError: a count below 1, or a weight that is not a number; names it.
    """

    beam: int = 50  # hypotheses kept
    beam_size_token: int | None = None  # likeliest tokens that a frame may add; None: all
    beam_threshold: float = 50.0  # hypotheses this much worse than the best one are dropped
    lm_weight: float = 2.0  # of the language model's log10-probability
    word_score: float = -1.0  # added for each word
    unk_weight: float = -math.inf  # added for a word that is not in the lexicon; none is admitted at -inf
    sil_weight: float = 0.0  # added for each frame of the delimiter
    log_add: bool = True  # probabilities of the paths to one prefix are added; False: the likeliest path stands for all

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            allowed = allowed_instead(name, value)
            if allowed is not None:
                raise ValueError(f"{name} is {value}; it must be {allowed}")


def allowed_instead(name: str, value: float | None) -> str | None:
    """What a setting of the search must be, where `value` is none of that."""
    if value is None or name == "log_add":
        return None
    if name in ("beam", "beam_size_token"):
        return "at least 1" if value < 1 else None
    if name == "unk_weight":
        return None if math.isfinite(value) or value == -math.inf else "a finite number, or -inf"
    return None if math.isfinite(value) else "a finite number"


class Guidance(NamedTuple):
    """What the search goes by, read and checked once: the lexicon's words, the language model, and what to warn of."""

    entries: list[Entry]  # empty: there is no lexicon
    model: LanguageModel | None
    of_units: bool  # the language model's words are the dictionary's units
    warnings: list[str]


def read_guidance(tokens: Tokens, lexicon: str | None, language_model: str | None) -> Guidance:
    """Read a lexicon and a language model and compare them with the dictionary and each other.

    A model of words without a lexicon brings its own: all its words, spelled by their letters.

    Raises:
        ValueError: neither is given, one cannot be read, or they do not fit; names lines.
    """
    if lexicon is None and language_model is None:
        raise ValueError(
            "a beam search needs a lexicon, a language model, or both; without them the greedy decoder finds the "
            "same text"
        )
    entries = [] if lexicon is None else read_lexicon(lexicon, tokens)
    if language_model is None:
        return Guidance(entries, None, False, [])
    model = read_language_model(language_model)
    if model.is_of_units(tokens):
        return Guidance(entries, model, True, [])
    if lexicon is not None:
        return Guidance(entries, model, False, check_words(model, entries, lexicon))
    entries = spell(model.vocabulary.items(), tokens)
    return Guidance(entries, model, False, check_letters(model, entries, tokens))


class BeamDecoder:
    """Prefix beam search.

    Args:
        tokens: the dictionary.
        guidance: lexicon, language model, or both.
        settings: beam and weights.
        nbest: hypotheses returned.
    Raises:
        ValueError: the extra `decode` is not installed, or the language model is damaged.
    """

    def __init__(self, tokens: Tokens, guidance: Guidance, settings: BeamSettings, nbest: int = 1) -> None:
        self.tokens, self.guidance, self.nbest = tokens, guidance, nbest
        self._words = list(dict.fromkeys(entry.word for entry in guidance.entries))
        self._flashlight = _flashlight()
        self._lm = self._language_model()
        self.dropped: list[Entry] = []  # words of the lexicon that the search cannot hold
        self._trie = self._build_trie() if guidance.entries else None
        self.configure(settings)

    def configure(self, settings: BeamSettings) -> None:
        """Search with other settings from now on; lexicon and language model stay loaded."""
        self.settings = settings
        library, tokens = self._flashlight, self.tokens
        common = {
            "beam_size": settings.beam,
            "beam_size_token": settings.beam_size_token or len(tokens.symbols),
            "beam_threshold": settings.beam_threshold,
            "lm_weight": settings.lm_weight if self.guidance.model is not None else 0.0,
            "sil_score": settings.sil_weight,
            "log_add": settings.log_add,
            "criterion_type": library.CriterionType.CTC,
        }
        silence = tokens.blank if tokens.delimiter is None else tokens.delimiter
        if self._trie is None:
            options = library.LexiconFreeDecoderOptions(**common)
            self._search = library.LexiconFreeDecoder(options, self._lm, silence, tokens.blank, [])
        else:
            options = library.LexiconDecoderOptions(
                word_score=settings.word_score, unk_score=settings.unk_weight, **common
            )
            unknown, of_units = len(self._words), self.guidance.of_units
            self._search = library.LexiconDecoder(
                options, self._trie, self._lm, silence, tokens.blank, unknown, [], of_units
            )

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
        # before the first frame and after the last stands the delimiter
        path = np.asarray(result.tokens[1 : frames + 1])
        own = np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0]
        labels = None
        if self._trie is not None:
            labels = [
                (self._words[word], frame)
                for frame, word in enumerate(result.words, start=-1)
                if 0 <= word < len(self._words)
            ]
        return from_path(path, own, self.tokens, result.score, labels)

    # -- what the library is given -------------------------------------------------------------------------------------

    def _language_model(self) -> Any:
        if self.guidance.model is None:
            return self._flashlight.ZeroLM()
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        known = Dictionary()
        for word in self.tokens.symbols if self.guidance.of_units else [*self._words, "<unk>"]:
            known.add_entry(word)
        path = self.guidance.model.path
        try:
            return KenLM(path, known)
        except (RuntimeError, UnicodeDecodeError) as error:  # the second where KenLM quotes bytes that are not UTF-8
            said = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
            raise ValueError(f"KenLM cannot read the language model {path}: {_reason(path, said)}") from error

    def _build_trie(self) -> Any:
        """The lexicon as a tree of units, each word with what the language model gives it at the start of a
        sentence.
        """
        index = self.tokens.outputs()
        numbers = {word: number for number, word in enumerate(self._words)}
        silence = self.tokens.blank if self.tokens.delimiter is None else self.tokens.delimiter
        trie = self._flashlight.Trie(len(self.tokens.symbols), silence)
        begin, anywhere = self._lm.start(False), self._lm.start(True)
        of_words = self.guidance.model is not None and not self.guidance.of_units

        def score(word: str, state: Any) -> float:
            return self._lm.score(state, numbers[word])[1] if of_words else 0.0

        kept, self.dropped = most_likely_homophones(self.guidance.entries, lambda word: score(word, anywhere))
        for entry in kept:
            trie.insert([index[unit] for unit in entry.spelling], numbers[entry.word], score(entry.word, begin))
        trie.smear(self._flashlight.SmearingMode.MAX)
        return trie


def most_likely_homophones(
    entries: Sequence[Entry], likelihood: Callable[[str], float]
) -> tuple[list[Entry], list[Entry]]:
    """Split a lexicon into the entries that the search can hold, and those that it cannot: further words of one
    spelling.

    Args:
        likelihood: of a word; of equal ones the lexicon's order decides.
    Returns:
        At most `HOMOPHONES` entries of each spelling, in the lexicon's order; and the others.
    """
    words: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in entries:
        words.setdefault(entry.spelling, {}).setdefault(entry.word, entry)
    dropped: list[Entry] = []
    for same in words.values():
        if len(same) > HOMOPHONES:
            ranked = sorted(same.values(), key=lambda entry: -likelihood(entry.word))
            dropped += ranked[HOMOPHONES:]
    gone = set(dropped)
    return [entry for same in words.values() for entry in same.values() if entry not in gone], dropped


def describe_dropped(dropped: Sequence[Entry]) -> str:
    """A warning that names the words that `most_likely_homophones` left out."""
    lines = "; ".join(f"line {entry.line}: {entry.word} ({' '.join(entry.spelling)})" for entry in dropped[:_SHOWN])
    more = f" (and {len(dropped) - _SHOWN} more)" if len(dropped) > _SHOWN else ""
    return (
        f"lines of the lexicon that are left out: {len(dropped)}. The search holds {HOMOPHONES} words of one "
        f"spelling, and these are less likely than the others: {lines}{more}. Remove rare homophones from the "
        "lexicon, or give words different spellings"
    )


def read_beam(
    tokens: Tokens,
    lexicon: str | os.PathLike[str] | None,
    language_model: str | os.PathLike[str] | None,
    settings: BeamSettings,
    nbest: int = 1,
) -> BeamDecoder:
    """A decoder by the names of its files; what does not fit fully is logged."""
    guidance = read_guidance(tokens, _text(lexicon), _text(language_model))
    decoder = BeamDecoder(tokens, guidance, settings, nbest)
    for warning in [*guidance.warnings, *([describe_dropped(decoder.dropped)] if decoder.dropped else [])]:
        logger.warning(warning)
    return decoder


def _reason(path: str, said: str) -> str:
    """Why KenLM does not load a file, and what to do where that is known."""
    if "at least a bigram" in said:
        return (
            "it has unigrams only, and KenLM needs order 2 or more. Make it again with a higher order "
            "(fairseq-make-ngram --order 3)"
        )
    if "not compiled in" in said:
        return "flashlight's KenLM was built without this compression. Decompress the file, or compress it with gzip"
    with text_files.open_bytes(path) as file:
        if file.read(len(text_files.BOM)) == text_files.BOM:
            return "it begins with a byte order mark, which KenLM does not know. Save it as UTF-8 without BOM"
    return _PLACE_IN_KENLM.sub("", " ".join(said.split()))


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
