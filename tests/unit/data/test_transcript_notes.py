"""What is said about the texts of a corpus in any language."""

from __future__ import annotations

import pytest

from fairseq.data.transcript_notes import is_form, notes
from fairseq.data.transcripts import clean


@pytest.mark.parametrize(
    "texts, named",
    [
        (["at 5 o'clock", "at ten"] * 3, 'transcripts with digits: 3, such as "at 5 o\'clock"'),
        (["หลัง ๕ วัน"] * 3, "transcripts with digits: 3"),
        (["ｃat", "cat"] * 3, "other forms of plain letters: ｃ (U+FF43)"),
        (["ﺳلام"] * 3, "other forms of plain letters: ﺳ (U+FEB3)"),
        (["سـلام"] * 3, "other forms of plain letters: ـ (U+0640)"),
        (["ภาษาไทยไม่มีช่องว่าง"] * 3, "hardly any spaces"),
        (["今天天气很好我们去公园散步吧"] * 3, "hardly any spaces"),
        (["cat"] * 90 + ["café"], "fewer than 3 times are hardly learned: f (U+0066) é (U+00E9)"),
    ],
)
def test_one_thing_is_noted(texts: list[str], named: str) -> None:
    (found,) = notes(texts)
    assert named in found


@pytest.mark.parametrize(
    "texts",
    [
        ["hello world", "three seven five"] * 3,
        ["cat", "café"],
        ["सलाम दुनिया में", "ภาษา ไทย ำ", "三 五 七", "ʻokina ꞌa ʷa"] * 3,  # letters, not other forms of letters
        ["five", "nine"] * 20,  # single words are short
        [],
    ],
)
def test_nothing_is_noted_of_plain_texts(texts: list[str]) -> None:
    assert list(notes(texts)) == []


def test_forms() -> None:
    assert all(map(is_form, "Ａｶﻼﬁ")) and not any(map(is_form, "Aカلəำŉſ"))


def test_texts_of_one_language_get_one_form() -> None:
    """Decomposed and composed letters, three apostrophes and both cases; a mark without a composed letter stays."""
    forms = ["Й\u043e\u2019лдош Сала\u0301м", "и\u0306о'лдош сала\u0301м!", "«ЙО\u2018ЛДОШ», САЛА\u0301М №"]
    assert {clean(form, "lower") for form in forms} == {"йо'лдош сала\u0301м"}
