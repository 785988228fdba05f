"""Scores of an n-gram model, by KenLM (extra `decode`): a context and a word give a score and a new context."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from fairseq import text_files
from fairseq.installed import advice

_KEPT = 1_000_000  # scores kept; about 100 MB


class Scorer(Protocol):
    """Scores words in contexts. Contexts are numbers; equal numbers mean equal futures."""

    begin: int  # context at the start of a sentence
    anywhere: int  # context without any words before

    def score(self, context: int, word: int) -> tuple[float, int]:
        """Return log10 of the word's probability in the context, and the context after it."""
        ...

    def finish(self, context: int) -> float:
        """Return log10 of the probability that the sentence ends here."""
        ...


class NoModel:
    """Scores every word 0."""

    begin = anywhere = 0

    def score(self, context: int, word: int) -> tuple[float, int]:
        return 0.0, 0

    def finish(self, context: int) -> float:
        return 0.0


class KenLMScorer:
    """An n-gram model that KenLM reads.

    Args:
        path: ARPA, also compressed with gzip, bzip2 or xz, or KenLM's binary form.
        words: word of each number that `score` can be asked about.
    Raises:
        ValueError: no package with the module `kenlm` is installed.
        OSError: KenLM cannot read the file.
    """

    def __init__(self, path: str, words: Sequence[str]) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise ValueError(f"a language model needs KenLM: {advice('decode')}") from error
        self._kenlm, self._words = kenlm, words
        config = kenlm.Config()
        config.show_progress = False
        with plain_file(path) as plain:
            self._model = kenlm.Model(plain, config)
        self._states: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._known: dict[tuple[int, int], tuple[float, int]] = {}
        begin, anywhere = kenlm.State(), kenlm.State()
        self._model.BeginSentenceWrite(begin)
        self._model.NullContextWrite(anywhere)
        self.begin, self.anywhere = self._number(begin), self._number(anywhere)

    def score(self, context: int, word: int) -> tuple[float, int]:
        """Return log10 of the word's probability in the context, and the context after it."""
        found = self._known.get((context, word))
        if found is None:
            after = self._kenlm.State()
            value = self._model.BaseScore(self._states[context], self._words[word], after)
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[context, word] = (value, self._number(after))
        return found

    def finish(self, context: int) -> float:
        """Return log10 of the probability that the sentence ends here."""
        return self._model.BaseScore(self._states[context], "</s>", self._kenlm.State())

    def _number(self, state: Any) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


@contextlib.contextmanager
def plain_file(path: str) -> Iterator[str]:
    """Decompress a compressed language model to a temporary file: the wheels of KenLM differ in what they can read."""
    if not text_files.is_compressed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fairseq-lm-") as folder:
        plain = os.path.join(folder, "model.arpa")
        with text_files.named_errors(path, "the language model"), text_files.open_bytes(path) as source:
            with open(plain, "wb") as target:
                shutil.copyfileobj(source, target)
        yield plain
