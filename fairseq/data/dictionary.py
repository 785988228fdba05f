"""Dictionaries: the symbols of a model's outputs and their indices."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from fairseq import text_files
from fairseq.data.data_utils import post_process

_OVERWRITE = "#fairseq:overwrite"  # fairseq: at the end of a line, allows the symbol to replace an existing one
_COUNT = re.compile(r"[+-]?[0-9]{1,18}")  # fairseq accepts negative counts too
_BLANKS = " \t\r"


def tokenize_line(line: str) -> list[str]:
    """Split a line into symbols at white space."""
    return line.split()


class DuplicateSymbolError(ValueError, RuntimeError):
    """A dictionary file defines a symbol twice; also a RuntimeError, which fairseq raises."""


class _SpecialIndex:
    """Descriptor for the index of a special symbol, such as `pad_index`: its first row; subclasses can override it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.word = name.removesuffix("_index") + "_word"

    def __get__(self, dictionary: Dictionary | None, owner: type) -> Any:
        if dictionary is None:
            return self
        word = getattr(dictionary, self.word)
        if word not in dictionary.indices:
            raise AttributeError(f"the dictionary has no symbol {word!r}")
        return dictionary.symbols.index(word)  # fast: special symbols come first


class Dictionary:
    """Symbols with indices from 0; the first four are `<s>` (the blank of CTC models), `<pad>`, `</s>` and `<unk>`.

    `bos_index`, `pad_index`, `eos_index` and `unk_index` are the indices of these special symbols, `bos_word` and so on
    their names.

    Args:
        bos: name of the symbol at the start of a sentence, which is the blank of CTC models.
        pad: name of the padding symbol.
        eos: name of the symbol at the end of a sentence.
        unk: name of the symbol for unknown units.
        extra_special_symbols: names of further special symbols, which follow these.
        add_special_symbols: False: start without special symbols, because the file has them.
    """

    bos_index, pad_index, eos_index, unk_index = _SpecialIndex(), _SpecialIndex(), _SpecialIndex(), _SpecialIndex()

    def __init__(
        self,
        *,
        bos: str = "<s>",
        pad: str = "<pad>",
        eos: str = "</s>",
        unk: str = "<unk>",
        extra_special_symbols: Iterable[str] | None = None,
        add_special_symbols: bool = True,
    ) -> None:
        self.bos_word, self.pad_word, self.eos_word, self.unk_word = bos, pad, eos, unk
        self.symbols: list[str] = []
        self.count: list[int] = []
        self.indices: dict[str, int] = {}
        self.nspecial = 0
        if add_special_symbols:
            for symbol in (bos, pad, eos, unk, *(extra_special_symbols or ())):
                self.add_symbol(symbol)
            self.nspecial = len(self.symbols)

    # -- looking up ----------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dictionary) and self.symbols == other.symbols

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.indices

    def __getitem__(self, index: int) -> str:
        """Return the symbol at an index; `<unk>` beyond the last index."""
        return self.symbols[index] if index < len(self.symbols) else self.unk_word

    def index(self, symbol: str) -> int:
        """Return the index of a symbol; that of `<unk>` if it is unknown."""
        return self.indices[symbol] if symbol in self.indices else self.unk()

    def get_count(self, index: int) -> int:
        return self.count[index]

    def bos(self) -> int:
        return self.indices[self.bos_word]

    def pad(self) -> int:
        return self.indices[self.pad_word]

    def eos(self) -> int:
        return self.indices[self.eos_word]

    def unk(self) -> int:
        """Return the index of `<unk>`; raise KeyError if the dictionary does not have it."""
        return self.indices[self.unk_word]

    # -- text ----------------------------------------------------------------------------------------------------------

    def string(
        self,
        tensor: Tensor | Iterable[int],
        bpe_symbol: str | None = None,
        escape_unk: bool = False,
        extra_symbols_to_ignore: Iterable[int] | None = None,
        unk_string: str | None = None,
        include_eos: bool = False,
        separator: str = " ",
    ) -> str:
        """Convert indices to text, one line per row of a 2-D tensor; `<s>` and `</s>` are omitted.

        Args:
            tensor: indices, 1-D or 2-D.
            bpe_symbol: kind of unit, to join units into words; see `fairseq.data.data_utils.post_process`.
            escape_unk: write unknown symbols as <<unk>>, which no reference contains.
            extra_symbols_to_ignore: further indices to omit.
            unk_string: text for unknown symbols.
            include_eos: keep `</s>`.
            separator: text between symbols.
        """
        if isinstance(tensor, Tensor) and tensor.dim() == 2:
            rows = (
                self.string(t, bpe_symbol, escape_unk, extra_symbols_to_ignore, unk_string, include_eos, separator)
                for t in tensor
            )
            return "\n".join(rows)
        numbers = tensor.tolist() if isinstance(tensor, Tensor) else [int(number) for number in tensor]
        ignored = set(extra_symbols_to_ignore or ())
        ignored |= {
            self.indices[word]
            for word in (self.bos_word, *(() if include_eos else (self.eos_word,)))
            if word in self.indices
        }
        unknown = self.indices.get(self.unk_word)
        shown = self.unk_string(escape_unk) if unk_string is None else unk_string
        text = separator.join(
            shown if number == unknown else self[number] for number in numbers if number not in ignored
        )
        return post_process(text, bpe_symbol)

    def unk_string(self, escape: bool = False) -> str:
        return f"<{self.unk_word}>" if escape else self.unk_word

    def encode_line(
        self,
        line: str,
        line_tokenizer: Callable[[str], list[str]] = tokenize_line,
        add_if_not_exist: bool = True,
        consumer: Callable[[str, int], None] | None = None,
        append_eos: bool = True,
        reverse_order: bool = False,
    ) -> Tensor:
        """Convert a line's symbols to indices, int32.

        Args:
            line_tokenizer: splits the line into symbols.
            add_if_not_exist: add unknown symbols to the dictionary, instead of using `<unk>`.
            consumer: called with (symbol, index) of each symbol.
            append_eos: append the index of `</s>`.
            reverse_order: reverse the symbols.
        """
        words = line_tokenizer(line)
        if reverse_order:
            words = list(reversed(words))
        numbers = []
        for word in words:
            number = self.add_symbol(word) if add_if_not_exist else self.index(word)
            if consumer is not None:
                consumer(word, number)
            numbers.append(number)
        if append_eos:
            numbers.append(self.eos())
        return torch.tensor(numbers, dtype=torch.int32)

    # -- building ------------------------------------------------------------------------------------------------------

    def add_symbol(self, word: str, n: int = 1, overwrite: bool = False) -> int:
        """Add a symbol, or add `n` to the count of an existing one; return its index.

        Args:
            word: the symbol.
            n: its count.
            overwrite: give an existing symbol a new index. A special symbol gets a new row but keeps its first index,
                because models, criterion and decoder use `<s>`, output 0, as blank.
        """
        known = self.indices.get(word)
        if known is not None and not overwrite:
            self.count[known] += n
            return known
        number = len(self.symbols)
        self.indices[word] = number if known is None or known >= self.nspecial else known
        self.symbols.append(word)
        self.count.append(n)
        return self.indices[word]

    def update(self, new_dict: Dictionary) -> None:
        """Add another dictionary's symbols and counts."""
        for word, count in zip(new_dict.symbols, new_dict.count, strict=True):
            self.add_symbol(word, count)

    def finalize(self, threshold: int = -1, nwords: int = -1, padding_factor: int = 8) -> None:
        """Sort the symbols by descending count, then by name.

        Args:
            threshold: drop symbols with a smaller count; -1: keep all.
            nwords: number of symbols to keep, including special ones; -1: all.
            padding_factor: pad the dictionary to a multiple of this with symbols that never occur.
        """
        counts = Counter(dict(sorted(zip(self.symbols[self.nspecial :], self.count[self.nspecial :], strict=True))))
        kept = [
            (word, n)
            for word, n in counts.most_common(None if nwords <= 0 else nwords - self.nspecial)
            if n >= threshold
        ]
        self.symbols = self.symbols[: self.nspecial] + [word for word, _ in kept]
        self.count = self.count[: self.nspecial] + [n for _, n in kept]
        self.indices = {word: number for number, word in enumerate(self.symbols)}
        self.pad_to_multiple_(padding_factor)

    def pad_to_multiple_(self, padding_factor: int) -> None:
        for number in range(-len(self) % padding_factor if padding_factor > 1 else 0):
            self.add_symbol(f"madeupword{number:04d}", n=0)

    # -- files and checkpoints -----------------------------------------------------------------------------------------

    @classmethod
    def load(cls, f: str | os.PathLike[str] | TextIO, add_special_symbols: bool = True) -> Dictionary:
        """Read a dictionary file: one line `symbol count` per symbol, except the special ones.

        Raises:
            ValueError: see `add_from_file`.
        """
        dictionary = cls(add_special_symbols=add_special_symbols)
        dictionary.add_from_file(f)
        return dictionary

    def add_from_file(self, f: str | os.PathLike[str] | TextIO) -> None:
        """Add the symbols of a dictionary file.

        Raises:
            MissingFileError: the file does not exist.
            ValueError: the file is not UTF-8, or a line is malformed or defines a symbol again; names file and line.
        """
        if isinstance(f, (str, os.PathLike)):
            lines, name = text_files.read_lines(f, "the dictionary"), os.fspath(f)
        else:
            lines, name = f.read().removeprefix("\ufeff").split("\n"), "the dictionary"
        if lines and not lines[-1].strip():
            lines.pop()
        for number, line in enumerate(lines, start=1):
            word, count = _last_column(line)
            overwrite = count == _OVERWRITE
            if overwrite:
                word, count = _last_column(word)
            if not word or not _COUNT.fullmatch(count):
                raise ValueError(f"{name}, line {number}: {_wrong_line(line)}")
            if word in self and not overwrite:
                raise DuplicateSymbolError(f"{name}, line {number}: {self._twice(word)}")
            self.add_symbol(word, n=int(count), overwrite=overwrite)

    def _twice(self, word: str) -> str:
        if word in self.symbols[: self.nspecial]:
            return (
                f"the symbol {word!r} is already defined, because special symbols are added automatically. Remove "
                "the line."
            )
        return (
            f"the symbol {word!r} is already defined. Remove one of the two lines, or end the second with {_OVERWRITE} "
            "to give the symbol a new index."
        )

    def save(self, f: str | os.PathLike[str] | TextIO) -> None:
        """Write a file that `load` can read."""
        text = "".join(
            f"{word} {n}\n" for word, n in zip(self.symbols[self.nspecial :], self.count[self.nspecial :], strict=True)
        )
        if isinstance(f, (str, os.PathLike)):
            Path(f).parent.mkdir(parents=True, exist_ok=True)
            Path(f).write_text(text, encoding="utf-8")
        else:
            f.write(text)

    def state_dict(self) -> dict[str, Any]:
        """Return the dictionary as plain containers, for checkpoints."""
        special = {"bos": self.bos_word, "pad": self.pad_word, "eos": self.eos_word, "unk": self.unk_word}
        return {"symbols": list(self.symbols), "count": list(self.count), "nspecial": self.nspecial, **special}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Dictionary:
        """Create the dictionary from the result of `state_dict`."""
        dictionary = cls(
            bos=state["bos"], pad=state["pad"], eos=state["eos"], unk=state["unk"], add_special_symbols=False
        )
        dictionary.symbols, dictionary.count = list(state["symbols"]), [int(n) for n in state["count"]]
        dictionary.nspecial = int(state["nspecial"])
        special = {word: number for number, word in enumerate(dictionary.symbols[: dictionary.nspecial])}
        dictionary.indices = {word: number for number, word in enumerate(dictionary.symbols)} | special
        return dictionary


def _last_column(line: str) -> tuple[str, str]:
    """Split a line at its last blanks into (symbol, column).

    If there are only blanks before the column, the symbol is one blank: fairseq accepts such a symbol.
    """
    line = line.rstrip(_BLANKS)
    cut = max(line.rfind(" "), line.rfind("\t"), 0)
    before = line[:cut]
    return before.strip(_BLANKS) or before[:1], line[cut:].lstrip(_BLANKS)


def _wrong_line(line: str) -> str:
    """Describe what is wrong with a dictionary's line."""
    shown = repr(line if len(line) <= 60 else line[:60] + "...")
    columns = line.split()
    try:
        float(columns[-1] if len(columns) > 1 else "none")
    except ValueError:
        return f"{shown} is not of the form 'symbol count'"
    return (
        f"the count {columns[-1][:20]!r} is not a whole number. A sentencepiece .vocab file has scores in this "
        "column: replace them with counts, such as 1."
    )
