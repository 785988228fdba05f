"""Rules over labels, and the numbers that they are judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq.corpora.report import text_pass
from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.pool import Workers
from fairseq.corpora.report.text_pass import Texts, read_texts
from fairseq.corpora.report.text_rules import TEXT_RULES

LINE = "H E L L O | Y O U |"


def texts_of(manifest: Path, count: int) -> Texts | None:
    corpus = Corpus(str(manifest))
    return read_texts(0, corpus, np.full(count, 4.0), Workers(1, [corpus]).map)


def read(folder: Path, letters: list[str], words: list[str] | None = None, dictionary: str | None = None) -> Texts:
    count = len(letters)
    manifest = folder / "train.tsv"
    manifest.write_text(f"{folder}\n" + "".join(f"{i}.wav\t16000\n" for i in range(count)))
    (folder / "train.ltr").write_text("".join(f"{line}\n" for line in letters), encoding="utf-8")
    if words is not None:
        (folder / "train.wrd").write_text("".join(f"{line}\n" for line in words), encoding="utf-8")
    if dictionary is not None:
        (folder / "dict.ltr.txt").write_text("".join(f"{unit} 1\n" for unit in dictionary))
    texts = texts_of(manifest, count)
    assert texts is not None
    return texts


def raised(texts: Texts) -> dict[str, list[tuple[int, str]]]:
    return {name: hits.shown() for name, hits in texts.hits.items() if hits.count}


def test_contents(tmp_path: Path) -> None:
    texts = read(tmp_path, [LINE] * 3, ["HELLO YOU"] * 3, "HELOYU|")
    assert raised(texts) == {} and texts.findings == []
    assert texts.lines == 3 and texts.num_words == 6 and texts.words["YOU"] == 3 and texts.units["L"] == 6
    assert texts.usual.rate == pytest.approx(8 / 4, abs=0.25) and texts.usual.script == "LATIN"


@pytest.mark.parametrize(
    ("line", "name", "evidence"),
    [
        ("", "empty-label", ""),
        ("Х E L L O | Y O U |", "wrong-script", "Х (Cyrillic)"),
        ("h E L L O | Y O U |", "mixed-case", "h"),
        ("H E L L O | " * 30, "too-fast", "38 letters a second; the median is 2"),
        ("A |", "too-slow", "1 letters in 4.0 s; the median is 2 a second"),
    ],
)
def test_suspects(tmp_path: Path, line: str, name: str, evidence: str) -> None:
    assert raised(read(tmp_path, [*[LINE] * 60, line])) == {name: [(60, evidence)]}


def test_units_that_the_dictionary_lacks(tmp_path: Path) -> None:
    texts = read(tmp_path, [LINE, LINE.replace("Y", "?")], dictionary="HELOYU|")
    assert raised(texts) == {"not-in-dictionary": [(1, "'?'")]}


def test_words_differ(tmp_path: Path) -> None:
    texts = read(tmp_path, [LINE] * 2, ["HELLO YOU", "HELLO THERE"])
    assert raised(texts) == {"words-differ": [(1, "'HELLO YOU', 'HELLO THERE'")]}


def test_every_rule_is_tested() -> None:
    tested = {"empty-label", "wrong-script", "mixed-case", "too-fast", "too-slow", "not-in-dictionary", "words-differ"}
    assert {rule.name for rule in TEXT_RULES.rules} == tested


def test_two_scripts_in_equal_parts_are_no_fault(tmp_path: Path) -> None:
    assert raised(read(tmp_path, [LINE, "П Р И В Е Т |"] * 10)) == {}


def test_another_number_of_lines_is_one_finding(tmp_path: Path) -> None:
    texts = read(tmp_path, [LINE] * 3)
    (tmp_path / "train.ltr").write_text(f"{LINE}\n\n")
    texts = texts_of(tmp_path / "train.tsv", 3)
    assert texts is not None and raised(texts) == {}
    (finding,) = texts.findings
    assert finding.name == "label-lines" and finding.severity == "error"
    assert "has 2 lines" in finding.title and "has 3 utterances" in finding.title


def test_without_labels(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    assert texts_of(tmp_path / "train.tsv", 1) is None


def test_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*[LINE] * 5, "A | ?", *["\u00c9 T \u00c9 |"] * 4, ""]
    words = ["".join(line.split()).replace("|", " ") for line in lines]
    whole = read(tmp_path, lines, words, "HELOYU|A\u00c9T")
    monkeypatch.setattr(text_pass, "PART", 3)
    parts = read(tmp_path, lines, words, "HELOYU|A\u00c9T")
    assert raised(parts) == raised(whole) == {"empty-label": [(10, "")], "not-in-dictionary": [(5, "'?'")]}
    assert (parts.units, parts.words, parts.lines, parts.usual) == (whole.units, whole.words, 11, whole.usual)


def test_errors_name_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pass, "PART", 2)
    read(tmp_path, [LINE] * 5)
    path = tmp_path / "train.ltr"
    path.write_bytes(b"\xef\xbb\xbf" + b"A |\r\n" * 3 + b"\xff |\n" + b"A |\n")
    with pytest.raises(ValueError, match=r"train.ltr, line 4: byte 1 of the line is not UTF-8"):
        texts_of(tmp_path / "train.tsv", 5)
    path.write_text("A |\n" * 5, encoding="utf-16")
    with pytest.raises(ValueError, match="UTF-16"):
        texts_of(tmp_path / "train.tsv", 5)
    path.write_bytes(b"\xef\xbb\xbf" + b"A |\r\n" * 5)
    texts = texts_of(tmp_path / "train.tsv", 5)
    assert texts is not None and texts.units == {"A": 5}
