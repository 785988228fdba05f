"""Spell a text in the units of a model's dictionary, with stars for what the dictionary or the text lacks."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairseq.data.transcripts import clean
from fairseq.decoding.tokens import DELIMITER, WORD_START, Tokens

STAR = "<star>"  # speech that the text lacks
GAP = "| or <star>"  # between words, where other speech may be
MISSING = ("error", "star", "drop")
_SHOWN = 5  # characters or units listed in a message


class UnknownCharacters(ValueError):
    """The text has characters that the dictionary does not have."""


class SpelledWord(NamedTuple):
    """A word, or a stretch of other speech."""

    text: str  # as in the given text; STAR
    normal: str  # in the dictionary's letters, with STAR for others
    first: int  # index of its first unit
    last: int
    may_be_absent: bool = False  # a gap between words: reported only if there is other speech


@dataclass
class Spelling:
    """A text as units.

    Attributes:
        units: symbols of the dictionary, STAR or GAP.
        words: the words, in order; units between them are delimiters.
        removed: characters without a sound, such as punctuation, and how often they were left out.
        missing: characters that the dictionary does not have, and how often they were left out or became stars.
    """

    units: list[str] = field(default_factory=list)
    words: list[SpelledWord] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """Return a sentence for each kind of character that was left out."""
        found = []
        if self.removed:
            found.append(f"characters without a sound, left out: {_counted(self.removed)}")
        if self.missing:
            found.append(f"characters that the dictionary does not have: {_counted(self.missing)}")
        return found


def spell(lines: Iterable[str], tokens: Tokens, missing: str = "error", star: bool = False, name: str = "") -> Spelling:
    """Spell a text that is separated into words by spaces.

    Letters get the dictionary's case, if it has only one. Punctuation that the dictionary does not have separates
    words. If the dictionary has no delimiter, the text must be its units, separated by spaces: words, phonemes, or
    sentencepieces.

    Args:
        lines: the text.
        missing: what becomes of letters and digits that the dictionary does not have: `error`; `star`, other speech;
            `drop`, nothing.
        star: other speech may be before, between and after all words.
        name: of the text, for errors.
    Raises:
        UnknownCharacters: the text has characters that the dictionary does not have.
        ValueError: the text has no words.
    """
    assert missing in MISSING, missing
    return _Speller(tokens, missing, star, name or "the text").spell(lines)


class _Speller:
    def __init__(self, tokens: Tokens, missing: str, star: bool, name: str) -> None:
        self._tokens, self._mode, self._star, self._name = tokens, missing, star, name
        self._known = tokens.letters()
        self._case = _case_of(self._known)
        self._marks = "".join(sorted(letter for letter in self._known if len(letter) == 1 and not letter.isalnum()))
        self._unknown: dict[str, str] = {}  # character -> where it is first
        self._found = Spelling()

    def spell(self, lines: Iterable[str]) -> Spelling:
        found = self._found
        if self._star:
            self._add_gap()
        for number, line in enumerate(lines, start=1):
            for word in _pieces_of_words(line.split()) if self._tokens.has_pieces else line.split():
                if word == STAR:
                    self._add_word(STAR, STAR, [STAR])
                else:
                    self._add_spelled(word, number)
        if self._unknown and self._mode == "error":
            places = [f"{character!r} ({place})" for character, place in list(self._unknown.items())[:_SHOWN]]
            more = len(self._unknown) - len(places)
            raise UnknownCharacters(
                f"{self._name} has {self._kind} that the model's dictionary does not have: {', '.join(places)}"
                f"{f' and {more} more' if more else ''}. Write them as they are spoken, or choose --missing star "
                "(other speech) or --missing drop (nothing). The dictionary has "
                f"{' '.join(sorted(self._known)[:60])}"
            )
        if not any(word.text != STAR for word in found.words):
            raise ValueError(f"{self._name} has no words that the model's dictionary can spell.")
        if not self._star and self._tokens.delimiter is not None and found.units[-1] != STAR:
            found.units.append(DELIMITER)
        return found

    @property
    def _kind(self) -> str:
        return "characters" if self._tokens.delimiter is not None else "units"

    def _add_spelled(self, word: str, line: int) -> None:
        if self._tokens.delimiter is None:
            parts = [word.split()]
            word = _bare("".join(parts[0]))
        else:
            cleaned = clean(word, self._case, self._marks, self._found.removed)
            parts = [list(part) for part in cleaned.split()]
        spelled: list[str] = []
        for part in parts:
            units = self._known_units(part, word, line)
            if units:
                spelled += [DELIMITER, *units] if spelled else units
        if spelled:
            spelled = _joined(spelled)
            text = "".join(spelled)
            normal = text.replace(DELIMITER, " ") if self._tokens.delimiter is not None else _bare(text)
            self._add_word(word, normal, spelled)

    def _known_units(self, part: Sequence[str], word: str, line: int) -> list[str]:
        units = []
        for unit in part:
            if unit in self._known:
                units.append(unit)
                continue
            self._unknown.setdefault(unit, f"line {line}, {word!r}")
            self._found.missing[unit] += 1
            if self._mode == "star":
                units.append(STAR)
        return units

    def _add_word(self, text: str, normal: str, units: list[str]) -> None:
        """Add a word and what is between it and the one before: nothing next to a star, which can be a pause too."""
        found = self._found
        if text == STAR and found.units and found.units[-1] in (STAR, GAP):  # one star stands for all of it
            found.units[-1] = STAR
            if found.words[-1].may_be_absent:
                found.words[-1] = found.words[-1]._replace(may_be_absent=False)
            return
        separate = bool(found.units) and self._tokens.delimiter is not None
        if separate and STAR not in (units[0], found.units[-1]) and found.units[-1] != GAP:
            found.units.append(DELIMITER)
        if found.units and found.units[-1] == GAP and units[0] == STAR:
            found.units.pop()
            found.words.pop()
        first = len(found.units)
        found.units += units
        found.words.append(SpelledWord(text, normal, first, len(found.units) - 1))
        if self._star and units[-1] != STAR:
            self._add_gap()

    def _add_gap(self) -> None:
        found = self._found
        found.words.append(SpelledWord(STAR, STAR, len(found.units), len(found.units), may_be_absent=True))
        found.units.append(GAP)


def _pieces_of_words(pieces: Sequence[str]) -> list[str]:
    """Join the pieces of each word with spaces."""
    words: list[str] = []
    for piece in pieces:
        if words and piece != STAR and words[-1] != STAR and not piece.startswith(WORD_START):
            words[-1] += f" {piece}"
        else:
            words.append(piece)
    return words


def _bare(pieces: str) -> str:
    """Return the text of a word's pieces."""
    return pieces.replace(WORD_START, "")


def _joined(units: list[str]) -> list[str]:
    """Leave out repeated stars, and delimiters next to stars: one star stands for all of it."""
    kept: list[str] = []
    for unit in units:
        if unit in (STAR, DELIMITER) and kept and kept[-1] == STAR:
            continue
        if unit == STAR and kept and kept[-1] == DELIMITER:
            kept.pop()
        kept.append(unit)
    return kept


def _case_of(letters: set[str]) -> str:
    upper = any(letter != letter.lower() for letter in letters)
    lower = any(letter != letter.upper() for letter in letters)
    return "keep" if upper == lower else "upper" if upper else "lower"


def words_of_units(line: str, tokens: Tokens) -> str:
    """Convert a line of a label file, such as `H E L L O | Y O U |`, to words separated by spaces."""
    if tokens.delimiter is None:
        return line  # `spell` takes units
    return "".join(line.split()).replace(DELIMITER, " ").strip()


def _counted(counter: Counter[str]) -> str:
    shown = [f"{_shown(character)} ({count:,})" for character, count in counter.most_common(_SHOWN)]
    more = len(counter) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _shown(character: str) -> str:
    return unicodedata.name(character, repr(character)) if not character.isprintable() else character
