"""Rows of output layers between dictionaries and vocabularies."""

from __future__ import annotations

import pytest
import torch

from fairseq.conversion.vocabulary import Vocabulary, from_symbols, reordered, to_symbols

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"]


def test_a_dictionary_keeps_its_rows():
    vocabulary = from_symbols(SYMBOLS)
    assert vocabulary.rows == {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}
    assert vocabulary[1:] == ("<pad>", "<s>", "</s>", "<unk>", "|")
    symbols, rows = to_symbols(vocabulary, 7)
    assert symbols == SYMBOLS and rows == list(range(7))


def test_a_dictionary_without_word_ends_and_one_with_a_symbol_twice():
    assert from_symbols([*SYMBOLS[:4], "aa", "b"]).word_end is None
    with pytest.raises(ValueError, match="'A' twice"):
        from_symbols([*SYMBOLS, "A"])


def test_a_foreign_vocabulary_is_put_in_order():
    """As most fine-tuned models on the hub have it: letters first, the padding token last, spaces as another token."""
    vocabulary = Vocabulary(
        {"a": 0, "b": 1, " ": 2, "[UNK]": 4, "[PAD]": 5, "<s>": 6}, "[PAD]", "<s>", "</s>", "[UNK]", " "
    )
    symbols, rows = to_symbols(vocabulary, 6)  # <s> was added to the tokenizer, not to the model
    assert symbols == ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "|", "madeupword0003"]
    assert rows == [5, None, None, 4, 0, 1, 2, 3]
    head = {"weight": torch.arange(6.0).unsqueeze(1), "bias": torch.arange(6.0)}
    ours = reordered(head, rows)
    assert ours["bias"].tolist() == [5, -1e4, -1e4, 4, 0, 1, 2, 3] and ours["weight"].flatten().tolist() == [
        5,
        0,
        0,
        4,
        0,
        1,
        2,
        3,
    ]
    features = torch.randn(4, 1)
    theirs = torch.log_softmax(features @ head["weight"].t() + head["bias"], dim=1)
    mine = torch.log_softmax(features @ ours["weight"].t() + ours["bias"], dim=1)
    assert torch.allclose(mine[:, [4, 5, 6, 7, 3, 0]], theirs)
    kept = reordered(head, list(range(6)))
    assert kept["weight"] is head["weight"]


def test_one_token_with_two_parts_and_no_blank():
    symbols, rows = to_symbols(Vocabulary({"a": 1, "_": 0}, "_", "_", None, None, None), 2)
    assert symbols == ["<s>", "<pad>", "</s>", "<unk>", "a"] and rows == [0, None, None, None, 1]
    with pytest.raises(ValueError, match=r"\[PAD\].*blank"):
        to_symbols(Vocabulary({"a": 0, "[PAD]": 1}, "[PAD]", None, None, None, None), 1)
