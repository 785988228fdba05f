"""Text files as editors and systems leave them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fairseq.text_files import MissingFileError, iterate_lines, read_lines, split


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n\n", ["a", ""]),  # the second line is empty, and it is a line
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\x0bc\x85d\re\n".encode(), ["a\u2028b\x0bc\x85d\re"]),  # str.splitlines would make five lines
        (gzip.compress(b"\xef\xbb\xbfa\nb", mtime=0), ["a", "b"]),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    (tmp_path / "f").write_bytes(content)
    assert read_lines(tmp_path / "f", "the file") == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\xff\n", "cannot read the labels .*f, line 2: byte 2 of the line is not UTF-8"),
        ("a".encode("utf-16"), "the labels .*f is UTF-16. Save it as UTF-8."),
        (gzip.compress(b"a" * 1000, mtime=0)[:-9], "cannot read the labels .*f: Compressed file ended"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_lines(tmp_path / "f", "the labels")


def test_missing_files_folders_and_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match="cannot read the labels .*gone: No such file"):
        read_lines(tmp_path / "gone", "the labels")
    with pytest.raises(ValueError, match="Is a directory"):
        read_lines(tmp_path, "the labels")
    monkeypatch.setattr("fairseq.text_files._LONGEST", 100)
    (tmp_path / "f").write_bytes(b"a\n" + b"b" * 100)
    lines = iterate_lines(tmp_path / "f", "the labels")
    assert next(lines) == "a"
    with pytest.raises(ValueError, match="f, line 2 is longer"):
        next(lines)


def test_only_ascii_blanks_split() -> None:
    assert split(" a\tb\0c \u00a0d\u3000e\r\n") == ["a", "b", "c", "\u00a0d\u3000e"]
