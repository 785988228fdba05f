"""Texts as units of a dictionary."""

from __future__ import annotations

import pytest

from fairseq.alignment.spelling import GAP, STAR, UnknownCharacters, spell, words_of_units
from fairseq.decoding.tokens import Tokens

LETTERS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCDEHLOTW'"])
LOWER = Tokens.from_symbols(["<s>", "|", *"abct"])
WORDS = Tokens.from_symbols(["<s>", "HELLO", "YOU"])
PIECES = Tokens.from_symbols(["<s>", "▁HEL", "LO", "▁YOU"])


def units(text: str, tokens: Tokens = LETTERS, missing: str = "error", star: bool = False) -> str:
    return " ".join(spell(text.splitlines(), tokens, missing, star).units)


def test_letters_in_the_dictionarys_case_with_delimiters_as_in_training() -> None:
    assert units("hello, 'Ted'\n— to d’Abe") == "H E L L O | ' T E D ' | T O | D ' A B E |"
    assert units("A CAB", LOWER) == "a | c a b |"
    found = spell(["hello, Ted!"], LETTERS)
    assert [(word.text, word.normal, word.first, word.last) for word in found.words] == [
        ("hello,", "HELLO", 0, 4),
        ("Ted!", "TED", 6, 8),
    ]
    assert found.removed == {",": 1, "!": 1} and "left out: , (1), ! (1)" in found.notes()[0]


def test_a_word_with_a_hyphen_stays_one_word() -> None:
    found = spell(["a-bed do"], LETTERS)
    assert " ".join(found.units) == "A | B E D | D O |"
    assert [(word.text, word.normal, word.first, word.last) for word in found.words] == [
        ("a-bed", "A BED", 0, 4),
        ("do", "DO", 6, 7),
    ]


def test_missing_characters() -> None:
    with pytest.raises(UnknownCharacters, match=r"my\.txt has characters .* '5' \(line 2, 'B5'\).*--missing star"):
        spell(["a", "B5"], LETTERS, name="my.txt")
    assert units("A B5 D", missing="star") == "A | B <star> D |"  # a delimiter next to a star is a part of it
    assert units("A 555 D", missing="star") == "A <star> D |"
    assert units("A 5 B5 D", missing="drop") == "A | B | D |"
    found = spell(["A 52 D"], LETTERS, "star")
    assert [word.text for word in found.words] == ["A", "52", "D"] and found.missing == {"5": 1, "2": 1}
    assert spell(["B5D 5"], LETTERS, "star").words[0].normal == "B<star>D"
    assert spell(["B5D 5"], LETTERS, "drop").words[0].normal == "BD"


def test_stars_in_the_text() -> None:
    assert units("<star> A <star> <star> B <star>") == "<star> A <star> B <star>"
    assert [word.text for word in spell(["A <star> B"], LETTERS).words] == ["A", STAR, "B"]


def test_stars_may_be_everywhere() -> None:
    assert units("A B", star=True).replace(GAP, "*") == "* A * B *"
    found = spell(["A <star> B"], LETTERS, star=True)
    assert [(word.text, word.may_be_absent) for word in found.words] == [
        (STAR, True),
        ("A", False),
        (STAR, False),
        ("B", False),
        (STAR, True),
    ]
    assert " ".join(found.units).replace(GAP, "*") == "* A <star> B *"


def test_every_word_has_the_units_that_it_is_spelled_with() -> None:
    for star in (False, True):
        found = spell(["<star> a 5 b5c-5 55 <star> bed 7 'do"], LETTERS, "star", star)
        assert all(first.last < second.first for first, second in zip(found.words, found.words[1:], strict=False))
        assert found.words[-1].last < len(found.units)
        for word in found.words:
            letters = [unit for unit in found.units[word.first : word.last + 1] if unit in LETTERS.letters()]
            assert "".join(letters) == word.normal.replace(STAR, "").replace(" ", "")


def test_no_words() -> None:
    for text in ("", "... !", "<star>"):
        with pytest.raises(ValueError, match="has no words"):
            units(text)


def test_units_that_are_words_and_pieces() -> None:
    assert units("HELLO <star> YOU", WORDS) == "HELLO <star> YOU"
    with pytest.raises(UnknownCharacters, match="has units .* 'hello'"):
        units("hello", WORDS)
    found = spell(["▁HEL LO ▁YOU"], PIECES)
    assert [(word.text, word.first, word.last) for word in found.words] == [("HELLO", 0, 1), ("YOU", 2, 2)]
    assert found.units == ["▁HEL", "LO", "▁YOU"]


def test_label_lines() -> None:
    assert words_of_units("H E L L O | Y O U |", LETTERS) == "HELLO YOU"
    assert words_of_units("▁HEL LO", PIECES) == "▁HEL LO"
