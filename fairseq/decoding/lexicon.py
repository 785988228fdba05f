"""Lexicons: which words there are, and how each is spelled in the model's units."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fairseq import text_files
from fairseq.decoding.tokens import DELIMITER, Tokens

_SHOWN = 5  # lines that a message names


class Entry(NamedTuple):
    """A line of a lexicon."""

    word: str
    spelling: tuple[str, ...]  # units, the delimiter at the end where the dictionary has one
    line: int


def read_lexicon(path: str | os.PathLike[str], tokens: Tokens) -> list[Entry]:
    """Read a lexicon: a line a spelling, `WORD<TAB>W O R D |`, or only the word, which then is spelled by its letters.

    A word may have several lines. The delimiter at the end may be left out.

    Raises:
        MissingFileError: the file does not exist.
        ValueError: there is nothing in it, or units that the dictionary does not have; names the lines.
    """
    entries = []
    for number, line in enumerate(text_files.iterate_lines(path, "the lexicon"), start=1):
        word, *units = text_files.split(line) or [""]
        if word:
            entries.append(_entry(word, units or list(word), number, tokens))
    if not entries:
        raise ValueError(f"the lexicon {path} is empty; a line is WORD<TAB>W O R D |, or only the word")
    silent = [entry for entry in entries if set(entry.spelling) <= {DELIMITER}]
    if silent:
        lines = "; ".join(f"line {entry.line}: {entry.word}" for entry in silent[:_SHOWN])
        raise ValueError(
            f"the lexicon {path} has words that are spelled by nothing: {lines}; a line is WORD<TAB>W O R D |"
        )
    check_spellings(entries, tokens, str(path))
    return entries


def spell(words: Iterable[tuple[str, int]], tokens: Tokens) -> list[Entry]:
    """Spell words (each with the line that it comes from) by their letters; those that the dictionary cannot spell
    are left out.
    """
    letters = tokens.letters()
    return [_entry(word, list(word), line, tokens) for word, line in words if word and letters.issuperset(word)]


def _entry(word: str, units: Sequence[str], line: int, tokens: Tokens) -> Entry:
    bare = [unit for unit in units if unit != DELIMITER] if tokens.delimiter is not None else list(units)
    return Entry(word, (*bare, DELIMITER) if tokens.delimiter is not None else tuple(bare), line)


def check_spellings(entries: Sequence[Entry], tokens: Tokens, path: str) -> None:
    """Raise ValueError for spellings with units that the dictionary does not have, by line."""
    known = tokens.letters() | {DELIMITER}
    wrong = [(entry, unit) for entry in entries for unit in entry.spelling if unit not in known]
    if not wrong:
        return
    swapped = all(unit.swapcase() in known for _, unit in wrong)
    lines = "; ".join(f"line {entry.line}: {entry.word} has {unit!r}" for entry, unit in wrong[:_SHOWN])
    more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
    raise ValueError(
        f"the lexicon {path} has units that the model's dictionary does not have: {lines}{more}. "
        + ("They differ by case only: write the lexicon in the dictionary's case. " if swapped else "")
        + f"The dictionary has {' '.join(sorted(tokens.letters())[:60])}"
    )
