"""KenLM n-gram language models: read their words and check them against a lexicon or dictionary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fairseq import text_files
from fairseq.decoding.lexicon import Entry
from fairseq.decoding.tokens import Tokens

_BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
_SENTENCE_MARKS = frozenset({"<s>", "</s>", "<unk>", "<UNK>"})
_SHOWN = 5  # lines listed in a message
_WHAT = "the language model"


class LanguageModel(NamedTuple):
    """A language model's file and its words.

    `vocabulary` maps a word to its line in an ARPA file, or to its entry number (from 1) in a binary file. Sentence
    marks are left out.
    """

    path: str
    vocabulary: dict[str, int]
    is_binary: bool

    def is_of_units(self, tokens: Tokens) -> bool:
        """Return whether its words are the dictionary's units, such as letters or phones."""
        return tokens.outputs().keys() >= self.vocabulary.keys()

    def place(self, word: str) -> str:
        """Return the location of a word in the file."""
        return f"{self.path}, {'entry' if self.is_binary else 'line'} {self.vocabulary[word]}"


def read_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """Read the words of a model in ARPA or KenLM's binary format; KenLM reads the n-grams later.

    An ARPA file can be compressed with gzip, bzip2 or xz if KenLM was built with it.

    Raises:
        MissingFileError: the file does not exist.
        ValueError: another format, or a malformed line; the message names the file and the line.
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
    """Read word -> line from the unigram section."""
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
            f"{path} is not a language model: it must have the line \\data\\ and then \\1-grams: (ARPA), or KenLM's "
            "binary header"
        )
    raise ValueError(f"{path} ends within the section \\1-grams: the file is truncated")


def _unigram(path: str, number: int, line: str) -> str:
    columns = text_files.split(line)
    try:
        float(columns[0])
        if len(columns) in (2, 3):
            return columns[1]
    except ValueError:
        pass
    raise ValueError(
        f"{path}, line {number}: {line[:60]!r} is not a unigram; a line must be: log-probability, word, back-off weight"
    )


def _binary_vocabulary(path: str) -> dict[str, int]:
    """Read word -> entry number: KenLM writes the words after the tables, zero-terminated, `<unk>` first."""
    with open(path, "rb") as file:
        content = file.read()
    begin = content.rfind(b"<unk>\0")
    if begin < 0 or not content.endswith(b"\0"):
        raise ValueError(
            f"{path} does not include its words: build it with KenLM's build_binary, which includes them by default"
        )
    try:
        return {word.decode(): number for number, word in enumerate(content[begin:-1].split(b"\0"), start=1)}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: its words must be UTF-8") from error


def check_words(model: LanguageModel, entries: Sequence[Entry], lexicon: str) -> list[str]:
    """Check a lexicon's words against the model's.

    Returns:
        Warnings about words of the lexicon that the model does not have, with lines.
    Raises:
        ValueError: the model has none of the words; the message names lines of both, and whether only the case differs.
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
            f"the language model {model.path} has none of the words of the lexicon {lexicon} ({lines}{more}).{case}"
        )
    return [
        f"the language model {model.path} does not have {len(missing)} of the {len(entries)} words of the lexicon "
        f"{lexicon}; they are scored as unknown: {lines}{more}.{case}"
    ]


def check_letters(model: LanguageModel, spelled: Sequence[Entry], tokens: Tokens) -> list[str]:
    """Check a model's words, used as the lexicon, against the dictionary's letters.

    Args:
        spelled: the words that could be spelled.
    Returns:
        Warnings about words that could not be spelled, with lines.
    Raises:
        ValueError: no word could be spelled; the message names lines, and whether only the case differs.
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
        case = " Only the case differs: write the language model's text in the dictionary's case." if swapped else ""
        raise ValueError(f"the dictionary cannot spell any word of the language model: {lines}{more}.{case}")
    return [
        f"{len(unspelled)} words of the language model cannot be spelled with the dictionary and are dropped: "
        f"{lines}{more}. make_ngram.py --case prepares text like labels"
    ]


def _swapped(model: LanguageModel, words: Iterable[str]) -> tuple[str, str] | None:
    """Return a word and its form in another case that the model has."""
    for word in words:
        for other in (word.lower(), word.upper(), word.capitalize()):
            if other in model.vocabulary:
                return word, other
    return None
