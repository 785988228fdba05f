"""Meaning of a CTC model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

DELIMITER = "|"  # between words, if the units are letters
WORD_START = "\u2581"  # starts the first unit of a word, if the units are sentencepieces
_NEVER_SPOKEN = ("<s>", "<pad>", "</s>")


class Tokens(NamedTuple):
    """The symbols of a dictionary and their roles in decoding.

    Args:
        symbols: text of each output, V.
        blank: index of the CTC blank.
        delimiter: index of the output between words; None if each unit is a word (labels `wrd` and `phn`).
        silent: outputs without text: sentence begin, sentence end, padding, and the blank.
    """

    symbols: tuple[str, ...]
    blank: int
    delimiter: int | None
    silent: frozenset[int]

    @classmethod
    def from_symbols(cls, symbols: Sequence[str], blank: int = 0) -> Tokens:
        """Assign roles by the names of the symbols.

        Raises:
            ValueError: `blank` is not the index of a symbol.
        """
        symbols = tuple(symbols)
        if not 0 <= blank < len(symbols):
            raise ValueError(
                f"the blank is output {blank}, but the dictionary has {len(symbols)} symbols; it must be below that"
            )
        silent = {blank} | {number for number, symbol in enumerate(symbols) if symbol in _NEVER_SPOKEN}
        delimiter = symbols.index(DELIMITER) if DELIMITER in symbols else None
        return cls(symbols, blank, delimiter, frozenset(silent))

    @classmethod
    def from_dictionary(cls, dictionary: Any, blank: int | None = None) -> Tokens:
        """Assign roles to a fairseq Dictionary's symbols; `blank` defaults to `dictionary.bos()`, as in training."""
        return cls.from_symbols(
            [dictionary[number] for number in range(len(dictionary))], dictionary.bos() if blank is None else blank
        )

    @property
    def silence(self) -> int:
        """Output between words for a search: the delimiter, or the blank if there is none."""
        return self.blank if self.delimiter is None else self.delimiter

    @property
    def has_pieces(self) -> bool:
        """Whether the units are sentencepieces."""
        return any(symbol.startswith(WORD_START) for symbol in self.symbols)

    @property
    def kind(self) -> str:
        """Kind of unit, as named by `fairseq.data.data_utils.post_process`."""
        return "letter" if self.delimiter is not None else "sentencepiece" if self.has_pieces else "none"

    def letters(self) -> set[str]:
        """The symbols that words are spelled with."""
        return {
            s
            for number, s in enumerate(self.symbols)
            if number not in self.silent and number != self.delimiter and s != "<unk>"
        }

    def outputs(self) -> dict[str, int]:
        """Return symbol -> output, only for symbols with text."""
        return {symbol: number for number, symbol in enumerate(self.symbols) if number not in self.silent}
