"""Greedy decoding, words with their frames and confidence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fairseq.decoding import GreedyDecoder, Tokens

Emit = Callable[[str], np.ndarray]


def test_repetitions_join_and_blanks_part(tokens: Tokens, emit: Emit) -> None:
    (found,) = GreedyDecoder(tokens).decode(emit("-AA-A|BB--|-C-"))
    assert found.text == "AA B C"
    assert found.unit_text == "A A | B | C"


def test_frames_and_confidence_of_words(tokens: Tokens, emit: Emit) -> None:
    (found,) = GreedyDecoder(tokens).decode(emit("-AA-B||-CC"))
    assert [(word.text, word.first, word.last) for word in found.words] == [("AB", 1, 4), ("C", 8, 9)]
    assert [word.confidence for word in found.words] == pytest.approx([0.9, 0.9])
    assert found.score == pytest.approx(10 * np.log(0.9), rel=1e-5)


def test_unsure_frames_lower_the_confidence_of_their_word_only(tokens: Tokens, emit: Emit) -> None:
    log_probs = emit("A|B")
    log_probs[2, 6] = np.log(0.5)
    (found,) = GreedyDecoder(tokens).decode(log_probs)
    assert [word.confidence for word in found.words] == pytest.approx([0.9, 0.5])
    assert found.confidence == pytest.approx(0.7)


@pytest.mark.parametrize("path", ["", "-", "---", "|", "-|-|"])
def test_nothing_said_is_no_word(tokens: Tokens, emit: Emit, path: str) -> None:
    (found,) = GreedyDecoder(tokens).decode(emit(path) if path else np.zeros((0, 8), dtype=np.float32))
    assert found.text == "" and found.confidence == 0.0


def test_beginning_end_and_padding_of_sentences_have_no_text(tokens: Tokens) -> None:
    log_probs = np.full((4, 8), -9.0, dtype=np.float32)
    for frame, token in enumerate([5, 1, 2, 6]):
        log_probs[frame, token] = 0
    assert GreedyDecoder(tokens).decode(log_probs)[0].unit_text == "A B"


def test_without_a_delimiter_every_unit_is_a_word(emit: Emit) -> None:
    phones = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "sil", "AH", "B", "K"])
    (found,) = GreedyDecoder(phones).decode(emit("AA-B"))
    assert found.text == found.unit_text == "AH B"


def test_another_blank(emit: Emit) -> None:
    tokens = Tokens.from_symbols(["A", "B", "|", "_"], blank=3)
    log_probs = np.log(np.array([[0.1, 0.1, 0.1, 0.7], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]], dtype=np.float32))
    assert GreedyDecoder(tokens).decode(log_probs)[0].text == "A"
    with pytest.raises(ValueError, match="blank is output 4, but the dictionary has 4"):
        Tokens.from_symbols(["A", "B", "|", "_"], blank=4)


def test_sentencepieces_begin_words() -> None:
    tokens = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "\u2581HE", "LLO", "\u2581", "YOU"])
    log_probs = np.full((6, 8), -9.0, dtype=np.float32)
    for frame, token in enumerate([4, 5, 6, 7, 0, 4]):
        log_probs[frame, token] = 0
    (found,) = GreedyDecoder(tokens).decode(log_probs)
    assert tokens.kind == "sentencepiece" and found.text == "HELLO YOU HE"
    assert [(word.first, word.last) for word in found.words] == [(0, 1), (2, 3), (5, 5)]
