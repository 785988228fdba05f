"""References as they are compared: without what nobody sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.decoding import Tokens
from fairseq.evaluation.testset import TestSet, lines_of_utterances

LETTERS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C"])


def read(folder: Path, name: str, content: bytes, tokens: Tokens = LETTERS) -> TestSet:
    lines = content.count(b"\n")
    (folder / "test.tsv").write_text(f"{folder}\n" + "".join(f"{n}.wav\t1\n" for n in range(lines)))
    (folder / f"test.{name}").write_bytes(content)
    return TestSet.read(str(folder), "test", name, tokens)


def test_invisible_characters_do_not_count_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(tmp_path, "ltr", "A B |\u200b C |\nC\u00ad |\n".encode())
    assert found.references == ["AB C", "C"] and found.unit_references == ["A B |  C |", "C |"]
    assert "line 1: U+200B ZERO WIDTH SPACE; line 2: U+00AD SOFT HYPHEN" in caplog.text
    words = read(tmp_path, "wrd", "AB\u200b C\nC\u200d\n".encode())
    assert words.references == ["AB C", "C"]


def test_characters_of_the_dictionary_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens.from_symbols([*LETTERS.symbols, "\u200c"])
    assert read(tmp_path, "ltr", "A \u200c B |\n".encode(), tokens).references == ["A\u200cB"] and not caplog.text


def test_a_byte_order_mark_is_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (
        read(tmp_path, "wrd", b"\xef\xbb\xbfAB C\r\nC\r\n").references == ["AB C", "C"]
        and "invisible" not in caplog.text
    )


def test_every_line_counts(tmp_path: Path) -> None:
    (tmp_path / "speakers").write_text("a\n\n")
    assert lines_of_utterances(str(tmp_path / "speakers"), 2, "test.tsv") == ["a", ""]
    with pytest.raises(ValueError, match="has 2 lines, but test.tsv has 3"):
        lines_of_utterances(str(tmp_path / "speakers"), 3, "test.tsv")
    with pytest.raises(FileNotFoundError, match="gone"):
        lines_of_utterances(str(tmp_path / "gone"), 3, "test.tsv")
