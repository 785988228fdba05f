"""Symbols and their numbers: what a model's output rows mean."""

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

_OVERWRITE = "#fairseq:overwrite"  # fairseq: at a line's end, says that the symbol may replace one of its name
_COUNT = re.compile(r"[+-]?[0-9]{1,18}")  # fairseq reads negative ones too
_BLANKS = " \t\r"


def tokenize_line(line: str) -> list[str]:
    """Symbols of a line: what stands between white space."""
    return line.split()


class DuplicateSymbolError(ValueError, RuntimeError):
    """A dictionary file that names a symbol twice. fairseq raises a RuntimeError."""


class _SpecialIndex:
    """A special symbol's number as an attribute, such as `pad_index`: that of its first row. A subclass may set its
    own.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.word = name.removesuffix("_index") + "_word"

    def __get__(self, dictionary: Dictionary | None, owner: type) -> Any:
        if dictionary is None:
            return self
        word = getattr(dictionary, self.word)
        if word not in dictionary.indices:
            raise AttributeError(f"this dictionary has no symbol {word!r}")
        return dictionary.symbols.index(word)  # the special symbols come first: no search


class Dictionary:
    """Symbols numbered from 0. The first four are special: `<s>` (which CTC models use as blank), `<pad>`, `</s>` and
    `<unk>`.

    Args:
        bos: name of the symbol that begins a sentence; the blank of CTC models.
        pad: name of the symbol for padding.
        eos: name of the symbol that ends a sentence.
        unk: name of the symbol for everything that the dictionary does not have.
        extra_special_symbols: further ones, numbered after them.
        add_special_symbols: False starts without any; the file then has them.

    `bos_index`, `pad_index`, `eos_index` and `unk_index` are their numbers, `bos_word` and so on their names.
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

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.indices

    def __getitem__(self, index: int) -> str:
        """The symbol of a number; `<unk>` for numbers beyond the last."""
        return self.symbols[index] if index < len(self.symbols) else self.unk_word

    def index(self, symbol: str) -> int:
        """The number of a symbol; that of `<unk>` for an unknown one."""
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
        """Raises KeyError where the dictionary has no symbol for unknown ones."""
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
        """Text of numbers; a line for each row of a 2-D tensor. `<s>` and `</s>` are left out.

        Args:
            bpe_symbol: kind of unit, see `fairseq.data.data_utils.post_process`: makes words of them.
            escape_unk: write unknown symbols as <<unk>>, which no reference contains.
            unk_string: write them like this.
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
        """Numbers of a line's symbols, int32.

        Args:
            add_if_not_exist: number unknown symbols, in place of `<unk>`.
            consumer: told (symbol, number) of each.
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
        """Number a symbol, or count a known one `n` times more; returns its number.

        Args:
            overwrite: give a known symbol a new number. A special symbol gets the row but keeps its first number:
                models, criterion and decoder take `<s>`, output 0, as blank.
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
        """Number the symbols by how often they occur, most often first, those of one count by name.

        Args:
            threshold: leave out symbols of a smaller count; -1: none.
            nwords: keep so many symbols, special ones included; -1: all.
            padding_factor: fill up to a multiple of this with symbols that never occur.
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
        """Read a dictionary file: a line `symbol count` for each symbol but the special ones.

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
            ValueError: it is not UTF-8, or a line has another form or a symbol that is there already; names file and
                line.
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
                f"the symbol {word!r} is there already: the special symbols are added without a line of their "
                "own. Remove the line"
            )
        return (
            f"the symbol {word!r} is there already: remove one of the two lines ({_OVERWRITE} at a line's end "
            "gives it a second number)"
        )

    def save(self, f: str | os.PathLike[str] | TextIO) -> None:
        """Write what `load` reads."""
        text = "".join(
            f"{word} {n}\n" for word, n in zip(self.symbols[self.nspecial :], self.count[self.nspecial :], strict=True)
        )
        if isinstance(f, (str, os.PathLike)):
            Path(f).parent.mkdir(parents=True, exist_ok=True)
            Path(f).write_text(text, encoding="utf-8")
        else:
            f.write(text)

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain containers: what a checkpoint holds."""
        special = {"bos": self.bos_word, "pad": self.pad_word, "eos": self.eos_word, "unk": self.unk_word}
        return {"symbols": list(self.symbols), "count": list(self.count), "nspecial": self.nspecial, **special}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Dictionary:
        """The dictionary that `state_dict` described."""
        dictionary = cls(
            bos=state["bos"], pad=state["pad"], eos=state["eos"], unk=state["unk"], add_special_symbols=False
        )
        dictionary.symbols, dictionary.count = list(state["symbols"]), [int(n) for n in state["count"]]
        dictionary.nspecial = int(state["nspecial"])
        special = {word: number for number, word in enumerate(dictionary.symbols[: dictionary.nspecial])}
        dictionary.indices = {word: number for number, word in enumerate(dictionary.symbols)} | special
        return dictionary


def _last_column(line: str) -> tuple[str, str]:
    """(what stands before the last blanks, what stands after); where only blanks stand before, one of them: fairseq
    knows such a symbol.
    """
    line = line.rstrip(_BLANKS)
    cut = max(line.rfind(" "), line.rfind("\t"), 0)
    before = line[:cut]
    return before.strip(_BLANKS) or before[:1], line[cut:].lstrip(_BLANKS)


def _wrong_line(line: str) -> str:
    """What is wrong with a dictionary's line."""
    shown = repr(line if len(line) <= 60 else line[:60] + "...")
    columns = line.split()
    try:
        float(columns[-1] if len(columns) > 1 else "none")
    except ValueError:
        return f"{shown} is not of the form 'symbol count'"
    return (
        f"the count {columns[-1][:20]!r} is not a whole number. A sentencepiece .vocab file has scores there: "
        "write counts, such as 1"
    )
