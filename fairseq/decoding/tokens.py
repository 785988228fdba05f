"""What a CTC model's outputs stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

DELIMITER = "|"  # between words where the units are letters
WORD_START = "\u2581"  # begins the units that begin a word, where they are sentencepieces
_NEVER_SPOKEN = ("<s>", "<pad>", "</s>")


class Tokens(NamedTuple):
    """The symbols of a dictionary in the roles that decoding gives them.

    Args:
        symbols: the text of each output, V.
        blank: the output that means "nothing new".
        delimiter: the output between words; None where every unit is a word of its own (labels `wrd` and `phn`).
        silent: outputs that have no text: beginning, end and padding of sentences, and the blank.
    """

    symbols: tuple[str, ...]
    blank: int
    delimiter: int | None
    silent: frozenset[int]

    @classmethod
    def from_symbols(cls, symbols: Sequence[str], blank: int = 0) -> Tokens:
        """Roles by name.

        Raises:
            ValueError: there is no such output as `blank`.
        """
        symbols = tuple(symbols)
        if not 0 <= blank < len(symbols):
            raise ValueError(f"the blank is output {blank} of a dictionary of {len(symbols)} symbols")
        silent = {blank} | {number for number, symbol in enumerate(symbols) if symbol in _NEVER_SPOKEN}
        delimiter = symbols.index(DELIMITER) if DELIMITER in symbols else None
        return cls(symbols, blank, delimiter, frozenset(silent))

    @classmethod
    def from_dictionary(cls, dictionary: Any, blank: int | None = None) -> Tokens:
        """The roles of a fairseq Dictionary's symbols; the blank is `dictionary.bos()`, as in training, unless
        `blank` names another.
        """
        return cls.from_symbols(
            [dictionary[number] for number in range(len(dictionary))], dictionary.bos() if blank is None else blank
        )

    @property
    def has_pieces(self) -> bool:
        """Whether the units are sentencepieces."""
        return any(symbol.startswith(WORD_START) for symbol in self.symbols)

    @property
    def kind(self) -> str:
        """Kind of unit by the name that `fairseq.data.data_utils.post_process` has for it."""
        return "letter" if self.delimiter is not None else "sentencepiece" if self.has_pieces else "none"

    def letters(self) -> set[str]:
        """The symbols that words are spelled with."""
        return {
            s
            for number, s in enumerate(self.symbols)
            if number not in self.silent and number != self.delimiter and s != "<unk>"
        }

    def outputs(self) -> dict[str, int]:
        """Output by symbol, those with a text only."""
        return {symbol: number for number, symbol in enumerate(self.symbols) if number not in self.silent}
