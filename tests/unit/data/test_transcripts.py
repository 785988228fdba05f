"""Transcripts become words: what separates them, what stays inside of them, and their case."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fairseq.data.audio.manifest import Manifest
from fairseq.data.transcripts import Table, clean, is_turkic

PERSIAN, SINHALA = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0dc1\u0dca\u200d\u0dbb\u0dd3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PERSIAN, PERSIAN.replace("\u200c", "")),  # zero-width non-joiner
        (SINHALA, SINHALA.replace("\u200d", "")),  # zero-width joiner
        ("Donau\u00addampfschiff", "Donaudampfschiff"),  # soft hyphen
        ("\u202babc\u202c \u200edef\u2066", "abc def"),  # marks of direction
        ("a\u2060b\ufeffc", "abc"),  # word joiner, byte order mark
        ("\u0e01\u200b\u0e02", "\u0e01 \u0e02"),  # zero-width space: what Thai and Khmer have between words
        ("o\u2018zbek it\u2019s \u2018quoted\u2019", "o'zbek it's quoted'"),
        ("col\u00b7legi a \u00b7 b", "collegi a b"),
        ("well-known", "well known"),
    ],
)
def test_characters_within_words_do_not_split_them(text: str, words: str) -> None:
    assert clean(text) == words


def test_what_is_taken_out_is_counted_and_what_is_kept_stays() -> None:
    removed: Counter[str] = Counter()
    assert (
        clean(PERSIAN + " col\u00b7legi", keep="\u200c\u00b7", removed=removed) == PERSIAN + " col\u00b7legi"
        and not removed
    )
    clean("a\u00adb\u00adc d\u200be, f\u00b7g", removed=removed)
    assert removed == {"\u00ad": 2, "\u200b": 1, ",": 1, "\u00b7": 1}


@pytest.mark.parametrize(
    ("case", "text", "words"),
    [
        ("upper", "\u10d2\u10d0\u10db abc", "\u10d2\u10d0\u10db ABC"),  # Georgian capitals are no capitals of words
        ("lower", "\u10d2\u10d0\u10db ABC", "\u10d2\u10d0\u10db abc"),
        ("upper", "\u0390", "\u03aa\u0301"),  # not three characters: NFC again after casing
        ("upper", "\u0131i", "II"),
        ("upper-tr", "\u0131l\u0131k ilik", "ILIK \u0130L\u0130K"),
        ("lower-tr", "ILIK \u0130stanbul", "\u0131l\u0131k istanbul"),
        ("lower", "\u0130stanbul", "istanbul"),
        ("keep", "\u0130stanbul", "\u0130stanbul"),
    ],
)
def test_case_of_every_script(case: str, text: str, words: str) -> None:
    assert clean(text, case) == words


def test_turkish_letters_are_noticed() -> None:
    assert is_turkic("\u0131l\u0131k") and is_turkic("\u0130stanbul") and not is_turkic("ilik Istanbul")


def test_a_column_may_be_longer_than_the_csv_module_reads(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("path\tsentence\na.wav\t" + "a" * 200_000 + '\n\nb.wav\tb "c\n')
    (tmp_path / "m.tsv").write_text("/audio\na.wav\t1\nb.wav\t1\n")
    table, manifest = Table(tmp_path / "t.tsv"), Manifest(tmp_path / "m.tsv")
    assert [len(table.text(manifest, 0)), table.text(manifest, 1)] == [200_000, 'b "c']
