"""Lexicons: words and their spellings in the model's units."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fairseq import text_files
from fairseq.decoding.tokens import DELIMITER, Tokens

_SHOWN = 5  # lines listed in a message


class Entry(NamedTuple):
    """A line of a lexicon."""

    word: str
    spelling: tuple[str, ...]  # units, ending with the delimiter if the dictionary has one
    line: int


def read_lexicon(path: str | os.PathLike[str], tokens: Tokens) -> list[Entry]:
    """Read a lexicon with one spelling per line: `WORD<TAB>W O R D |`, or `WORD`, which is spelled by its letters.

    A word can have several lines. The final delimiter is optional.

    Raises:
        MissingFileError: the file does not exist.
        ValueError: the file is empty, or has units that the dictionary does not have; the message names the lines.
    """
    entries = []
    for number, line in enumerate(text_files.iterate_lines(path, "the lexicon"), start=1):
        word, *units = text_files.split(line) or [""]
        if word:
            entries.append(_entry(word, units or list(word), number, tokens))
    if not entries:
        raise ValueError(f"the lexicon {path} is empty; its lines must be WORD<TAB>W O R D |, or only the word")
    silent = [entry for entry in entries if set(entry.spelling) <= {DELIMITER}]
    if silent:
        lines = "; ".join(f"line {entry.line}: {entry.word}" for entry in silent[:_SHOWN])
        raise ValueError(
            f"the lexicon {path} has words with an empty spelling: {lines}; a line must be WORD<TAB>W O R D |"
        )
    check_spellings(entries, tokens, str(path))
    return entries


def spell(words: Iterable[tuple[str, int]], tokens: Tokens) -> list[Entry]:
    """Spell words by their letters; words that the dictionary cannot spell are dropped.

    Args:
        words: (word, its line).
    """
    letters = tokens.letters()
    return [_entry(word, list(word), line, tokens) for word, line in words if word and letters.issuperset(word)]


def _entry(word: str, units: Sequence[str], line: int, tokens: Tokens) -> Entry:
    bare = [unit for unit in units if unit != DELIMITER] if tokens.delimiter is not None else list(units)
    return Entry(word, (*bare, DELIMITER) if tokens.delimiter is not None else tuple(bare), line)


def check_spellings(entries: Sequence[Entry], tokens: Tokens, path: str) -> None:
    """Raise ValueError, with lines, for spellings with units that the dictionary does not have."""
    known = tokens.letters() | {DELIMITER}
    wrong = [(entry, unit) for entry in entries for unit in entry.spelling if unit not in known]
    if not wrong:
        return
    swapped = all(unit.swapcase() in known for _, unit in wrong)
    lines = "; ".join(f"line {entry.line}: {entry.word} has {unit!r}" for entry, unit in wrong[:_SHOWN])
    more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
    raise ValueError(
        f"the lexicon {path} has units that the model's dictionary does not have: {lines}{more}. "
        + ("Only the case differs: write the lexicon in the dictionary's case. " if swapped else "")
        + f"The dictionary has {' '.join(sorted(tokens.letters())[:60])}"
    )
