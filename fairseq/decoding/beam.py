"""Prefix beam search with a lexicon, an n-gram language model and hot words, in any combination (extra `decode`)."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fairseq import text_files
from fairseq.decoding.flashlight_search import FlashlightSearch, flashlight_is_installed
from fairseq.decoding.guidance import Guidance, describe_dropped, most_likely_homophones, read_guidance
from fairseq.decoding.hypothesis import Hypothesis, from_path
from fairseq.decoding.lexicon import Entry
from fairseq.decoding.numpy_search import NumpySearch
from fairseq.decoding.search import Found
from fairseq.decoding.settings import BeamSettings, allowed_instead
from fairseq.decoding.tokens import Tokens

__all__ = ["BeamDecoder", "BeamSettings", "Guidance", "allowed_instead", "read_beam", "read_guidance"]

logger = logging.getLogger(__name__)

ENGINES = ("auto", "flashlight", "numpy")
_IMPOSSIBLE = -1e4  # log-probability of all symbols but the delimiter in the final frame added by us
# KenLM's source file, function and condition, which precede the reason
_PLACE_IN_KENLM = re.compile(r"^.*? threw \w+( because `.*?')?\.?\s*")


class Engine(Protocol):
    """A beam search: flashlight's, or ours in numpy. Both find the same with the same scores."""

    def likelihoods(self) -> dict[str, float]: ...

    def load(self, entries: Sequence[Entry]) -> None: ...

    def configure(self, settings: BeamSettings) -> None: ...

    def decode(self, log_probs: np.ndarray, nbest: int) -> list[Found]: ...


class BeamDecoder:
    """Prefix beam search.

    Args:
        tokens: the dictionary.
        guidance: lexicon, language model, hot words.
        settings: beam and weights.
        nbest: number of hypotheses to return.
        engine: flashlight (C++, Python up to 3.12, without hot words), numpy, or auto: flashlight where it can be used.
    Raises:
        ValueError: an unknown engine, one that cannot be used here, or the language model is damaged.
    """

    def __init__(
        self, tokens: Tokens, guidance: Guidance, settings: BeamSettings, nbest: int = 1, engine: str = "auto"
    ) -> None:
        self.tokens, self.guidance, self.nbest = tokens, guidance, nbest
        self._words = list(dict.fromkeys(entry.word for entry in guidance.entries))
        self.engine = choose(engine, guidance)
        self._search = self._build()
        likelihoods = self._search.likelihoods()
        kept, self.dropped = most_likely_homophones(
            guidance.entries, lambda word: likelihoods.get(word, 0.0) + guidance.hotwords.get(word, 0.0)
        )
        self._search.load(kept)
        self.configure(settings)

    def configure(self, settings: BeamSettings) -> None:
        """Change the settings; the lexicon and the language model stay loaded."""
        self.settings = settings
        self._search.configure(settings)

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Decode log-probabilities T x V; hypotheses are sorted best first, and empty if there are no frames."""
        if len(log_probs) == 0:
            return [Hypothesis([], [], 0.0)]
        found = self._search.decode(self._with_end(log_probs), max(self.nbest, 1))
        return [self._hypothesis(result, log_probs) for result in found] or [Hypothesis([], [], -math.inf)]

    def _with_end(self, log_probs: np.ndarray) -> np.ndarray:
        """Append a frame for the delimiter of the last word: the search only ends at word ends."""
        if self.tokens.delimiter is None:
            return log_probs
        end = np.full((1, log_probs.shape[1]), _IMPOSSIBLE, dtype=log_probs.dtype)
        end[0, self.tokens.delimiter] = 0
        return np.concatenate([log_probs, end])

    def _hypothesis(self, result: Found, log_probs: np.ndarray) -> Hypothesis:
        path = result.path[: len(log_probs)]
        own = np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0]
        labels = None
        if self._words:
            labels = [(self._words[word], frame) for word, frame in result.labels if word < len(self._words)]
        return from_path(path, own, self.tokens, result.score, labels)

    def _build(self) -> Engine:
        of_kind = FlashlightSearch if self.engine == "flashlight" else NumpySearch
        try:
            return of_kind(self.tokens, self.guidance, self._words)
        # UnicodeDecodeError if KenLM quotes bytes that are not UTF-8
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            if self.guidance.model is None:
                raise
            path = self.guidance.model.path
            said = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
            raise ValueError(f"KenLM cannot read the language model {path}: {_reason(path, said)}") from error


def choose(engine: str, guidance: Guidance) -> str:
    """Return the engine to use: flashlight or numpy.

    Raises:
        ValueError: an unknown engine, or one that cannot be used.
    """
    if engine not in ENGINES:
        raise ValueError(f"the engine is {engine!r}; it must be one of: {', '.join(ENGINES)}")
    reason = None
    if guidance.hotwords:
        reason = "it has no hot words"
    elif not flashlight_is_installed():
        reason = "flashlight-text is not installed"
    if engine == "flashlight" and reason is not None:
        raise ValueError(f"engine='flashlight' cannot be used: {reason}. Use engine='numpy', which finds the same")
    return "numpy" if engine == "numpy" or reason is not None else "flashlight"


def read_beam(
    tokens: Tokens,
    lexicon: str | os.PathLike[str] | None,
    language_model: str | os.PathLike[str] | None,
    settings: BeamSettings,
    nbest: int = 1,
    hotwords: Mapping[str, float] | None = None,
    engine: str = "auto",
) -> BeamDecoder:
    """Build a decoder from its files; mismatches between them are logged."""
    guidance = read_guidance(tokens, _text(lexicon), _text(language_model), hotwords)
    decoder = BeamDecoder(tokens, guidance, settings, nbest, engine)
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
    with text_files.named_errors(path, "the language model"), text_files.open_bytes(path) as file:
        if file.read(len(text_files.BOM)) == text_files.BOM:
            return "it begins with a byte order mark, which KenLM does not support. Save it as UTF-8 without BOM"
    return _PLACE_IN_KENLM.sub("", " ".join(said.split()))


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
