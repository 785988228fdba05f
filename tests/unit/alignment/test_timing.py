"""Columns for a text, and words with frames and scores from a path."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.alignment.columns import GAP_COST, STAR_COST, Columns
from fairseq.alignment.spelling import GAP, STAR, Spelling, spell
from fairseq.alignment.timing import WordFrames, words_of
from fairseq.alignment.viterbi import best_path
from fairseq.decoding.tokens import Tokens

TOKENS = Tokens.from_symbols(["<s>", "|", "A", "B", "X"])


def heard(text: str, sure: float = 6.0) -> np.ndarray:
    """Log-probabilities of a model that hears these symbols, one per frame; "-" is the blank."""
    scores = np.zeros((len(text), len(TOKENS.symbols)))
    scores[np.arange(len(text)), ["-|ABX".index(symbol) for symbol in text]] = sure
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def aligned(text: str, said: str | np.ndarray, star: bool = False) -> list[WordFrames]:
    spelling = spell([text], TOKENS, star=star)
    columns = Columns(spelling.units, TOKENS)
    emissions, best = columns.of(heard(said) if isinstance(said, str) else said)
    return words_of(best_path(emissions, columns.labels), best, spelling)


def spans(words: list[WordFrames]) -> list[tuple[str, int, int]]:
    return [(word.text, word.first, word.last) for word in words]


def test_words_and_letters() -> None:
    words = aligned("ab a", "--AA-B-|-A-|")
    assert spans(words) == [("ab", 2, 5), ("a", 9, 9)]
    assert [(unit.text, unit.first, unit.last) for unit in words[0].units] == [("A", 2, 3), ("B", 5, 5)]
    sure = float(heard("A").max())
    assert words[0].score == pytest.approx(sure, abs=1e-5) and words[0].confidence == pytest.approx(np.exp(sure))
    assert words[0].agreement == pytest.approx(1.0)


def test_a_word_that_is_not_said_has_a_low_score() -> None:
    word = aligned("b", "--AA--")[0]
    assert word.score < -5 and word.confidence < 0.01 and word.agreement < 0.01


def test_star_takes_other_speech_with_its_delimiters() -> None:
    said = "-AB|X-XX-|BA|-"
    assert spans(aligned("ab <star> ba", said)) == [("ab", 1, 2), (STAR, 3, 9), ("ba", 10, 11)]
    assert spans(aligned("ab ba", said, star=True)) == [("ab", 1, 2), (STAR, 3, 9), ("ba", 10, 11)]
    without = aligned("ab ba", said)
    assert STAR not in [word.text for word in without]


def test_star_is_not_reported_where_there_is_nothing_else() -> None:
    assert spans(aligned("ab ba", "--AAB|-BA|--", star=True)) == [("ab", 2, 4), ("ba", 7, 8)]


def test_star_does_not_take_frames_that_sound_like_the_text() -> None:
    said = heard("-AAABB-")
    said[1:3, -1] = said[1:3, 2] + 0.05  # X is a little more probable than A
    assert spans(aligned("ab", said, star=True)) == [("ab", 1, 5)]
    said[1:3, -1] = said[1:3, 2] + 1.0
    assert spans(aligned("ab", said, star=True))[-1] == ("ab", 3, 5)


def test_star_costs_less_than_anything_but_the_best_symbol() -> None:
    columns = Columns([STAR, GAP, "A"], TOKENS)
    log_probs = heard("A|-")
    emissions, best = columns.of(log_probs)
    np.testing.assert_allclose(emissions[:, 1], best - STAR_COST, atol=1e-6)
    np.testing.assert_allclose(emissions[:, 2], [best[0] - STAR_COST, best[1], best[2] - GAP_COST], atol=1e-6)
    np.testing.assert_array_equal(emissions[:, [0, 3]], log_probs[:, [0, 2]])


def test_no_units_of_a_spelling_are_lost() -> None:
    spelling = spell(["ab"], TOKENS)
    assert isinstance(spelling, Spelling) and spelling.units == ["A", "B", "|"]
