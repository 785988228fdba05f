"""Translate the rows of an output layer between fairseq's dictionary and a vocabulary with special tokens.

fairseq's blank is `<s>`, row 0; in transformers it is the padding token. Converting a dictionary to a vocabulary
therefore swaps the names of `<s>` and `<pad>` and keeps the rows. A foreign vocabulary can have its padding token
anywhere, so its rows are reordered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq.decoding.tokens import DELIMITER, WORD_START

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
NEVER = -1e4  # bias of a row that the other model lacks: its probability is 0 in fp32


class Vocabulary(NamedTuple):
    """Tokens, their rows, and the special tokens; None for a special token that does not exist."""

    rows: dict[str, int]
    blank: str
    bos: str | None
    eos: str | None
    unk: str | None
    word_end: str | None

    def row_of(self, token: str | None) -> int | None:
        return None if token is None else self.rows.get(token)


def difference(inside: list[str] | None, given: list[str]) -> str | None:
    """Describe how a dictionary differs from the one in a checkpoint; None if it does not, or there is none."""
    if inside is None or inside == given:
        return None
    if len(inside) != len(given):
        return f"it has {len(inside)} symbols, the file has {len(given)}"
    row = next(row for row, (one, other) in enumerate(zip(inside, given, strict=True)) if one != other)
    return f"output {row} is {inside[row]!r} in the checkpoint, {given[row]!r} in the file"


def from_symbols(symbols: list[str]) -> Vocabulary:
    """Convert a dictionary to a vocabulary.

    Raises:
        ValueError: the dictionary has a symbol twice.
    """
    names = list(symbols)
    if SPECIAL[1] in names[:4]:
        place = names.index(SPECIAL[1])
        names[0], names[place] = names[place], names[0]
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the dictionary has the symbol {twice!r} twice; symbols of a vocabulary must be unique")
    bos, eos, unk = (name if name in rows else None for name in (SPECIAL[0], SPECIAL[2], SPECIAL[3]))
    return Vocabulary(rows, names[0], bos, eos, unk, DELIMITER if DELIMITER in rows else None)


def from_labels(labels: list[str]) -> Vocabulary:
    """Convert an output layer's labels, blank first, to a vocabulary.

    torchaudio's own labels start with "-" and "|" and have no special tokens.

    Raises:
        ValueError: a label occurs twice, or both `<s>` and `<pad>` occur besides the blank.
    """
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the label {twice!r} occurs twice")
    others = labels[1:]
    if SPECIAL[0] in others and SPECIAL[1] in others:
        raise ValueError(
            f"the first label, the blank, is {labels[0]!r}, but the labels also have {SPECIAL[0]} and {SPECIAL[1]}; "
            "one of these must be the blank"
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
    """Convert a vocabulary to the symbols of a dictionary.

    Args:
        num_rows: rows of the output layer; a row without a token is named madeupwordNNNN.
    Returns:
        The symbols, and for each its row in the vocabulary, or None if the vocabulary lacks it.
    Raises:
        ValueError: the blank has no row.
    """
    if vocabulary.rows.get(vocabulary.blank, num_rows) >= num_rows:
        raise ValueError(f"the padding token {vocabulary.blank!r}, which is the blank, has no row in the output layer")
    named = {row: token for token, row in vocabulary.rows.items() if row < num_rows}
    special = (vocabulary.blank, vocabulary.bos, vocabulary.eos, vocabulary.unk)
    found = [vocabulary.rows.get(token, num_rows) if token is not None else num_rows for token in special]
    rows: list[int | None] = [row if row < num_rows else None for row in found]
    # one token can have two roles
    rows = [row if row not in rows[:place] else None for place, row in enumerate(rows)]
    symbols: list[str] = list(SPECIAL)
    placed = set(rows)
    for row in range(num_rows):
        if row not in placed:
            token = named.get(row, f"madeupword{row:04d}")
            # transformers starts a piece with a space; sentencepiece and fairseq use WORD_START
            symbols.append(DELIMITER if token == vocabulary.word_end else token.replace(" ", WORD_START))
            rows.append(row)
    return symbols, rows


def reordered(head: Mapping[str, Tensor], rows: list[int | None]) -> dict[str, Tensor]:
    """Reorder an output layer's rows to a dictionary's order; missing rows get probability 0."""
    if rows == list(range(head["bias"].size(0))):
        return dict(head)
    weight = torch.zeros(len(rows), head["weight"].size(1), dtype=head["weight"].dtype)
    bias = torch.full((len(rows),), NEVER, dtype=head["bias"].dtype)
    here = [place for place, row in enumerate(rows) if row is not None]
    there = [row for row in rows if row is not None]
    weight[here], bias[here] = head["weight"][there], head["bias"][there]
    return {"weight": weight, "bias": bias}
