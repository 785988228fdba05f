"""Hot words: what is read, what is refused, and that they change what is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq.decoding import Tokens
from fairseq.decoding.beam import BeamSettings, read_beam
from fairseq.decoding.hotwords import BOOST, HotUnits, read_hotwords

Emit = Callable[[str], np.ndarray]


def test_words_and_boosts_are_read_from_the_option_or_a_file(tmp_path: Path) -> None:
    assert read_hotwords("ANNA:3.5, BOB,a:b:-1") == {"ANNA": 3.5, "BOB": BOOST, "a:b": -1.0}
    (tmp_path / "names.txt").write_text("ANNA 3.5\n\nBOB\n")
    assert read_hotwords(str(tmp_path / "names.txt")) == {"ANNA": 3.5, "BOB": BOOST}


@pytest.mark.parametrize("value", ["ANNA:much", "ANNA:nan", "ANNA:1e9"])
def test_a_boost_that_is_no_number_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a boost; it must be a number from -100 to 100"):
        read_hotwords(value)
    (tmp_path / "names.txt").write_text("BOB\n" + value.replace(":", " ") + "\n")
    with pytest.raises(ValueError, match=r"names.txt, line 2: .* is not a boost"):
        read_hotwords(str(tmp_path / "names.txt"))


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="has no words"):
        read_hotwords(" , ")


def unsure(emit: Emit) -> np.ndarray:
    """AB|C or BA|C, the latter a bit likelier."""
    log_probs = emit("AB|C")
    log_probs[0, [5, 6]] = np.log([0.40, 0.50])
    log_probs[1, [5, 6]] = np.log([0.50, 0.40])
    return log_probs


def test_without_a_lexicon_a_hot_word_wins(tokens: Tokens, emit: Emit) -> None:
    log_probs = unsure(emit)
    settings = BeamSettings(word_score=0.0)
    assert read_beam(tokens, None, None, settings, hotwords={"CCC": 1.0}).decode(log_probs)[0].text == "BA C"
    assert read_beam(tokens, None, None, settings, hotwords={"AB": 2.0}).decode(log_probs)[0].text == "AB C"


def test_a_started_hot_word_loses_its_credit(tokens: Tokens, emit: Emit) -> None:
    """Scores are those without boosts, unless the whole word is there."""
    log_probs = emit("AB|C")
    plain, started, whole = (
        read_beam(tokens, None, None, BeamSettings(), hotwords=words).decode(log_probs)[0]
        for words in ({"CCCCC": 1.0}, {"ABBA": 4.0, "AC": 3.0}, {"AB": 4.0})
    )
    assert plain.text == started.text == whole.text == "AB C"
    assert started.score == pytest.approx(plain.score)
    assert whole.score == pytest.approx(plain.score + 4.0)


def test_in_a_lexicon_a_hot_word_wins_and_a_new_one_is_added(tokens: Tokens, tmp_path: Path, emit: Emit) -> None:
    (tmp_path / "lexicon.txt").write_text("BA\nC\n")
    for words, text in (({"C": 0.0}, "BA C"), ({"AB": 2.0}, "AB C")):
        decoder = read_beam(tokens, tmp_path / "lexicon.txt", None, BeamSettings(word_score=0), hotwords=words)
        assert decoder.decode(unsure(emit))[0].text == text


def test_words_that_cannot_be_spelled_are_named(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hot word ab cannot be spelled .*Only the case differs"):
        read_beam(tokens, None, None, BeamSettings(), hotwords={"ab": 1.0})
    pieces = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "\u2581A", "B"])
    with pytest.raises(ValueError, match="hot word AB is not in the dictionary; .*needs a --lexicon"):
        read_beam(pieces, None, None, BeamSettings(), hotwords={"AB": 1.0})


def test_credit_is_spread_over_the_letters(tokens: Tokens) -> None:
    hot = HotUnits({"ABC": 6.0}, tokens)
    scores, following = hot.step(0)
    a, b = tokens.symbols.index("A"), tokens.symbols.index("B")
    assert scores[a] == 2.0 and scores[b] == 0.0
    after, _ = hot.step(following[a])
    assert after[b] == 2.0 and after[a] == -2.0 and hot.finish(following[a]) == -2.0
    assert after[tokens.delimiter] == -2.0
