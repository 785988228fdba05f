"""The rows of an output layer: fairseq's dictionary here, a vocabulary with special tokens there.

fairseq's blank is `<s>`, row 0; in transformers the padding token is the blank. A dictionary turned into a vocabulary
therefore exchanges the names of `<s>` and `<pad>`, and the rows stay. A foreign vocabulary may have its padding token
anywhere: then the rows are put in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq.decoding.tokens import DELIMITER, WORD_START

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
NEVER = -1e4  # bias of a row that the other model does not have: its probability is 0 in fp32


class Vocabulary(NamedTuple):
    """Tokens and their rows, and which of them are special; None where there is no such token."""

    rows: dict[str, int]
    blank: str
    bos: str | None
    eos: str | None
    unk: str | None
    word_end: str | None

    def row_of(self, token: str | None) -> int | None:
        return None if token is None else self.rows.get(token)


def difference(inside: list[str] | None, given: list[str]) -> str | None:
    """Where a dictionary differs from the one inside a checkpoint; None where it does not, or there is none inside."""
    if inside is None or inside == given:
        return None
    if len(inside) != len(given):
        return f"it has {len(inside)} symbols, the file {len(given)}"
    row = next(row for row, (one, other) in enumerate(zip(inside, given, strict=True)) if one != other)
    return f"output {row} is {inside[row]!r} inside, {given[row]!r} in the file"


def from_symbols(symbols: list[str]) -> Vocabulary:
    """The vocabulary of a dictionary.

    Raises:
        ValueError: a symbol twice, which a vocabulary cannot have.
    """
    names = list(symbols)
    if SPECIAL[1] in names[:4]:
        place = names.index(SPECIAL[1])
        names[0], names[place] = names[place], names[0]
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the dictionary has the symbol {twice!r} twice, which a vocabulary cannot")
    bos, eos, unk = (name if name in rows else None for name in (SPECIAL[0], SPECIAL[2], SPECIAL[3]))
    return Vocabulary(rows, names[0], bos, eos, unk, DELIMITER if DELIMITER in rows else None)


def from_labels(labels: list[str]) -> Vocabulary:
    """The vocabulary of an output layer's labels, the blank first: torchaudio's own begin with "-" and "|" and have no
    special tokens.

    Raises:
        ValueError: a label twice, or more special ones than a dictionary has places for.
    """
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the label {twice!r} is there twice")
    others = labels[1:]
    if SPECIAL[0] in others and SPECIAL[1] in others:
        raise ValueError(
            f"the blank is {labels[0]!r}, the first label, beside both {SPECIAL[0]} and {SPECIAL[1]}: one of these "
            "must be it"
        )
    bos, eos, unk = (
        next((name for name in names if name in others), None) for names in (SPECIAL[:2], SPECIAL[2:3], SPECIAL[3:])
    )
    return Vocabulary(
        {label: row for row, label in enumerate(labels)},
        labels[0],
        bos,
        eos,
        unk,
        DELIMITER if DELIMITER in others else None,
    )


def to_symbols(vocabulary: Vocabulary, num_rows: int) -> tuple[list[str], list[int | None]]:
    """(symbols of a dictionary, the vocabulary's row for each of them, None for a symbol that it does not have).

    Args:
        num_rows: of the output layer; rows without a token keep a made-up name.
    Raises:
        ValueError: the blank has no row.
    """
    if vocabulary.rows.get(vocabulary.blank, num_rows) >= num_rows:
        raise ValueError(f"the padding token {vocabulary.blank!r}, which is the blank, has no row in the output layer")
    named = {row: token for token, row in vocabulary.rows.items() if row < num_rows}
    special = (vocabulary.blank, vocabulary.bos, vocabulary.eos, vocabulary.unk)
    found = [vocabulary.rows.get(token, num_rows) if token is not None else num_rows for token in special]
    rows: list[int | None] = [row if row < num_rows else None for row in found]
    # one token may have two parts to play
    rows = [row if row not in rows[:place] else None for place, row in enumerate(rows)]
    symbols: list[str] = list(SPECIAL)
    placed = set(rows)
    for row in range(num_rows):
        if row not in placed:
            token = named.get(row, f"madeupword{row:04d}")
            # a blank of transformers begins a piece, which sentencepiece and fairseq write with another sign
            symbols.append(DELIMITER if token == vocabulary.word_end else token.replace(" ", WORD_START))
            rows.append(row)
    return symbols, rows


def reordered(head: Mapping[str, Tensor], rows: list[int | None]) -> dict[str, Tensor]:
    """The output layer with its rows in a dictionary's order; rows that it lacks can never win."""
    if rows == list(range(head["bias"].size(0))):
        return dict(head)
    weight = torch.zeros(len(rows), head["weight"].size(1), dtype=head["weight"].dtype)
    bias = torch.full((len(rows),), NEVER, dtype=head["bias"].dtype)
    here = [place for place, row in enumerate(rows) if row is not None]
    there = [row for row in rows if row is not None]
    weight[here], bias[here] = head["weight"][there], head["bias"][there]
    return {"weight": weight, "bias": bias}
