"""Prefix beam search with a lexicon, an n-gram language model, or both.

It uses flashlight-text and KenLM (extra `decode`).
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

_SHOWN = 5  # lines listed in a message
HOMOPHONES = 6  # words per spelling in flashlight's trie; it silently drops more
_IMPOSSIBLE = -1e4  # log-probability of all symbols but the delimiter in the final frame added by us
# KenLM's source file, function and condition, which precede the reason
_PLACE_IN_KENLM = re.compile(r"^.*? threw \w+( because `.*?')?\.?\s*")


@dataclass
class BeamSettings:
    """Settings of the beam search, with fairseq's names and defaults.

    Raises:
        ValueError: a count is below 1, or a weight is not finite; the message names it.
    """

    beam: int = 50  # hypotheses kept
    beam_size_token: int | None = None  # most likely tokens considered per frame; None: all
    beam_threshold: float = 50.0  # hypotheses this much worse than the best one are dropped
    lm_weight: float = 2.0  # of the language model's log10-probability
    word_score: float = -1.0  # added for each word
    unk_weight: float = -math.inf  # added for a word that is not in the lexicon; -inf: no such words
    sil_weight: float = 0.0  # added for each frame of the delimiter
    log_add: bool = True  # add the probabilities of all paths to a prefix; False: take the most likely path

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            allowed = allowed_instead(name, value)
            if allowed is not None:
                raise ValueError(f"{name} is {value}; it must be {allowed}")


def allowed_instead(name: str, value: float | None) -> str | None:
    """Return what a setting must be, or None if `value` is allowed."""
    if value is None or name == "log_add":
        return None
    if name in ("beam", "beam_size_token"):
        return "at least 1" if value < 1 else None
    if name == "unk_weight":
        return None if math.isfinite(value) or value == -math.inf else "a finite number, or -inf"
    return None if math.isfinite(value) else "a finite number"


class Guidance(NamedTuple):
    """The lexicon and language model of a search, read and checked once, with warnings about them."""

    entries: list[Entry]  # empty: no lexicon
    model: LanguageModel | None
    of_units: bool  # the language model's words are the dictionary's units
    warnings: list[str]


def read_guidance(tokens: Tokens, lexicon: str | None, language_model: str | None) -> Guidance:
    """Read a lexicon and a language model, and check them against the dictionary and each other.

    Without a lexicon, a word model's own words become the lexicon, spelled by their letters.

    Raises:
        ValueError: neither is given, one cannot be read, or they do not match; the message names the lines.
    """
    if lexicon is None and language_model is None:
        raise ValueError(
            "a beam search needs a lexicon, a language model, or both. Without them, use greedy decoding, which finds "
            "the same text"
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
        nbest: number of hypotheses to return.
    Raises:
        ValueError: the extra `decode` is not installed, or the language model is damaged.
    """

    def __init__(self, tokens: Tokens, guidance: Guidance, settings: BeamSettings, nbest: int = 1) -> None:
        self.tokens, self.guidance, self.nbest = tokens, guidance, nbest
        self._words = list(dict.fromkeys(entry.word for entry in guidance.entries))
        self._flashlight = _flashlight()
        self._lm = self._language_model()
        self.dropped: list[Entry] = []  # lexicon entries beyond HOMOPHONES
        self._trie = self._build_trie() if guidance.entries else None
        self.configure(settings)

    def configure(self, settings: BeamSettings) -> None:
        """Change the settings; the lexicon and the language model stay loaded."""
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
        """Decode log-probabilities T x V; hypotheses are sorted best first, and empty if there are no frames."""
        frames = len(log_probs)
        if frames == 0:
            return [Hypothesis([], [], 0.0)]
        emissions = np.ascontiguousarray(self._with_end(log_probs), dtype=np.float32)
        found = self._search.decode(emissions.ctypes.data, *emissions.shape)
        hypotheses = [self._hypothesis(result, log_probs) for result in found[: max(self.nbest, 1)]]
        return hypotheses or [Hypothesis([], [], -math.inf)]

    def _with_end(self, log_probs: np.ndarray) -> np.ndarray:
        """Append a frame for the delimiter of the last word: the search only ends at word ends."""
        if self.tokens.delimiter is None:
            return log_probs
        end = np.full((1, log_probs.shape[1]), _IMPOSSIBLE, dtype=log_probs.dtype)
        end[0, self.tokens.delimiter] = 0
        return np.concatenate([log_probs, end])

    def _hypothesis(self, result: Any, log_probs: np.ndarray) -> Hypothesis:
        frames = len(log_probs)
        # the result has a delimiter before the first frame and after the last one
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

    # -- inputs of the library -----------------------------------------------------------------------------------------

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
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter if KenLM quotes bytes that are not UTF-8
            said = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
            raise ValueError(f"KenLM cannot read the language model {path}: {_reason(path, said)}") from error

    def _build_trie(self) -> Any:
        """Build the lexicon as a trie of units, with each word's language model score at the start of a sentence."""
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
    """Split a lexicon into the entries that the search can hold and those that it cannot.

    Args:
        likelihood: score of a word; ties keep the lexicon's order.
    Returns:
        At most `HOMOPHONES` entries per spelling, in the lexicon's order; and the remaining entries.
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
    """Return a warning that lists the words that `most_likely_homophones` dropped."""
    lines = "; ".join(f"line {entry.line}: {entry.word} ({' '.join(entry.spelling)})" for entry in dropped[:_SHOWN])
    more = f" (and {len(dropped) - _SHOWN} more)" if len(dropped) > _SHOWN else ""
    return (
        f"dropped lines of the lexicon: {len(dropped)}. The search holds at most {HOMOPHONES} words per spelling, and "
        f"these are the least likely: {lines}{more}. Remove rare homophones from the lexicon, or change their "
        "spelling"
    )


def read_beam(
    tokens: Tokens,
    lexicon: str | os.PathLike[str] | None,
    language_model: str | os.PathLike[str] | None,
    settings: BeamSettings,
    nbest: int = 1,
) -> BeamDecoder:
    """Build a decoder from its files; mismatches between them are logged."""
    guidance = read_guidance(tokens, _text(lexicon), _text(language_model))
    decoder = BeamDecoder(tokens, guidance, settings, nbest)
    for warning in [*guidance.warnings, *([describe_dropped(decoder.dropped)] if decoder.dropped else [])]:
        logger.warning(warning)
    return decoder


def _reason(path: str, said: str) -> str:
    """Return why KenLM cannot load a file, and what to do if that is known."""
    if "at least a bigram" in said:
        return (
            "it has only unigrams, but KenLM needs order 2 or more. Build it with a higher order (fairseq-make-ngram "
            "--order 3)"
        )
    if "not compiled in" in said:
        return "flashlight's KenLM was built without this compression. Decompress the file, or compress it with gzip"
    with text_files.named_errors(path, "the language model"), text_files.open_bytes(path) as file:
        if file.read(len(text_files.BOM)) == text_files.BOM:
            return "it begins with a byte order mark, which KenLM does not support. Save it as UTF-8 without BOM"
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
