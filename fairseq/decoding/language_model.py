"""N-gram language models of KenLM: what words they know, and whether those fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fairseq import text_files
from fairseq.decoding.lexicon import Entry
from fairseq.decoding.tokens import Tokens

_BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
_SENTENCE_MARKS = frozenset({"<s>", "</s>", "<unk>", "<UNK>"})
_SHOWN = 5  # lines that a message names
_WHAT = "the language model"


class LanguageModel(NamedTuple):
    """A language model's file and its words.

    `vocabulary` is word -> line of an ARPA file, or -> number of the entry in a binary one, from 1; without sentence
    marks.
    """

    path: str
    vocabulary: dict[str, int]
    is_binary: bool

    def is_of_units(self, tokens: Tokens) -> bool:
        """Whether its words are the dictionary's units: letters, phones."""
        return tokens.outputs().keys() >= self.vocabulary.keys()

    def place(self, word: str) -> str:
        """Where a word stands in the file."""
        return f"{self.path}, {'entry' if self.is_binary else 'line'} {self.vocabulary[word]}"


def read_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """Read the words of a model in ARPA form or KenLM's binary one; the n-grams themselves are KenLM's to read.

    An ARPA file may be compressed (gzip, bzip2, xz), as far as KenLM was built with it.

    Raises:
        MissingFileError: the file does not exist.
        ValueError: it has another form, or a malformed line; names the file and the line.
    """
    path = str(path)
    with text_files.named_errors(path, _WHAT), open(path, "rb") as file:
        is_binary = file.read(len(_BINARY_MAGIC)) == _BINARY_MAGIC
    words = _binary_vocabulary(path) if is_binary else _arpa_vocabulary(path)
    vocabulary = {word: number for word, number in words.items() if word not in _SENTENCE_MARKS}
    if not vocabulary:
        raise ValueError(f"the language model {path} has no words")
    return LanguageModel(path, vocabulary, is_binary)


def _arpa_vocabulary(path: str) -> dict[str, int]:
    """Word -> line, from the section of unigrams."""
    words: dict[str, int] = {}
    inside = seen_data = False
    for number, line in enumerate(text_files.iterate_lines(path, _WHAT), start=1):
        line = line.strip(" \t\r")
        seen_data = seen_data or line == "\\data\\"
        if inside and line.startswith("\\"):
            return words
        if inside and line:
            words[_unigram(path, number, line)] = number
        inside = inside or line == "\\1-grams:"
        if number > 100 and not seen_data:
            break
    if not inside:
        raise ValueError(
            f"{path} is not a language model: it has no line \\data\\ with \\1-grams: after it (ARPA), nor KenLM's "
            "binary header"
        )
    raise ValueError(f"{path} ends within the section \\1-grams: the file is cut off")


def _unigram(path: str, number: int, line: str) -> str:
    columns = text_files.split(line)
    try:
        float(columns[0])
        if len(columns) in (2, 3):
            return columns[1]
    except ValueError:
        pass
    raise ValueError(
        f"{path}, line {number}: {line[:60]!r} is not a unigram; a line must be log-probability, word, back-off weight"
    )


def _binary_vocabulary(path: str) -> dict[str, int]:
    """Word -> number of its entry: KenLM writes the words behind the tables, each with a zero byte, `<unk>` first."""
    with open(path, "rb") as file:
        content = file.read()
    begin = content.rfind(b"<unk>\0")
    if begin < 0 or not content.endswith(b"\0"):
        raise ValueError(
            f"{path} holds no words: build it with KenLM's build_binary, which keeps them unless it is told not to"
        )
    try:
        return {word.decode(): number for number, word in enumerate(content[begin:-1].split(b"\0"), start=1)}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: its words are not UTF-8") from error


def check_words(model: LanguageModel, entries: Sequence[Entry], lexicon: str) -> list[str]:
    """Compare a lexicon's words with the model's.

    Returns:
        Warnings: words of the lexicon that the model does not know, by line.
    Raises:
        ValueError: it knows none of them; names lines of both, and says if only the case differs.
    """
    missing = [entry for entry in entries if entry.word not in model.vocabulary]
    if not missing:
        return []
    swapped = _swapped(model, (entry.word for entry in missing))
    lines = "; ".join(f"line {entry.line}: {entry.word}" for entry in missing[:_SHOWN])
    more = f" (and {len(missing) - _SHOWN} more)" if len(missing) > _SHOWN else ""
    case = (
        f" The case differs: {model.place(swapped[1])} has {swapped[1]}, the lexicon has {swapped[0]}."
        if swapped
        else ""
    )
    if len(missing) == len(entries):
        raise ValueError(
            f"the language model {model.path} knows none of the words of the lexicon {lexicon} ({lines}{more}).{case}"
        )
    return [
        f"the language model {model.path} does not know {len(missing)} of the {len(entries)} words of the lexicon "
        f"{lexicon}, which are scored as unknown: {lines}{more}.{case}"
    ]


def check_letters(model: LanguageModel, spelled: Sequence[Entry], tokens: Tokens) -> list[str]:
    """Compare a model's words with the dictionary's letters, where they are the lexicon.

    Args:
        spelled: the words that could be spelled.
    Returns:
        Warnings: words that could not be, by line.
    Raises:
        ValueError: none could be; names lines, and says if only the case differs.
    """
    could = {entry.word for entry in spelled}
    letters = tokens.letters()
    unspelled = [word for word in model.vocabulary if word not in could]
    if not unspelled:
        return []
    lines = "; ".join(
        f"{model.place(word)}: {word} has {' '.join(repr(letter) for letter in sorted(set(word) - letters))}"
        for word in unspelled[:_SHOWN]
    )
    more = f" (and {len(unspelled) - _SHOWN} more)" if len(unspelled) > _SHOWN else ""
    if not could:
        swapped = any(letters.issuperset(word.swapcase()) for word in unspelled)
        case = " They differ by case only: write the language model's text in the dictionary's case." if swapped else ""
        raise ValueError(f"the dictionary can spell no word of the language model: {lines}{more}.{case}")
    return [
        f"{len(unspelled)} words of the language model cannot be spelled with the dictionary and are left out: "
        f"{lines}{more}"
    ]


def _swapped(model: LanguageModel, words: Iterable[str]) -> tuple[str, str] | None:
    """A word and its form in another case that the model knows."""
    for word in words:
        for other in (word.lower(), word.upper(), word.capitalize()):
            if other in model.vocabulary:
                return word, other
    return None
