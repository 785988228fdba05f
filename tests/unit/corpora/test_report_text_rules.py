"""Rules over labels, and the numbers that they are judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.text_pass import Texts, read_texts
from fairseq.corpora.report.text_rules import TEXT_RULES

LINE = "H E L L O | Y O U |"


def read(folder: Path, letters: list[str], words: list[str] | None = None, dictionary: str | None = None) -> Texts:
    count = len(letters)
    manifest = folder / "train.tsv"
    manifest.write_text(f"{folder}\n" + "".join(f"{i}.wav\t16000\n" for i in range(count)))
    (folder / "train.ltr").write_text("".join(f"{line}\n" for line in letters), encoding="utf-8")
    if words is not None:
        (folder / "train.wrd").write_text("".join(f"{line}\n" for line in words), encoding="utf-8")
    if dictionary is not None:
        (folder / "dict.ltr.txt").write_text("".join(f"{unit} 1\n" for unit in dictionary))
    texts = read_texts(Corpus(str(manifest)), np.full(count, 4.0))
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
    texts = read_texts(Corpus(str(tmp_path / "train.tsv")), np.full(3, 4.0))
    assert texts is not None and raised(texts) == {}
    (finding,) = texts.findings
    assert finding.name == "label-lines" and finding.severity == "error"
    assert "has 2 lines" in finding.title and "has 3 utterances" in finding.title


def test_without_labels(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    assert read_texts(Corpus(str(tmp_path / "train.tsv")), np.full(1, 4.0)) is None
