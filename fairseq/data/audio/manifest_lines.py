"""Parse the lines of a manifest, `path<TAB>frames` or `path<TAB>frames<TAB>start`, many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark, as editors on Windows write it
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NEWLINE, _TAB, _RETURN, _ZERO = (ord(c) for c in "\n\t\r0")
_MAX_DIGITS = 18  # of a number; more would overflow int64
_BLOCK = 1 << 23  # bytes that are parsed at a time; parsing takes about 10 times this memory


def printable(name: str) -> str:
    """Return a name as valid UTF-8 text, with bytes of other encodings written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Columns(NamedTuple):
    """Lines of a manifest; blank ones are left out."""

    begins: np.ndarray  # int64: first byte of each path
    sizes: np.ndarray  # int64: frames
    starts: np.ndarray | None  # int64: first frame; None if there are only two columns


class LineParser:
    """Parses the lines after the root, block by block.

    Args:
        path: the manifest's path, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.columns = 0  # of the lines; 0: no line has been parsed
        self._first = 0  # the first line with columns
        self._line = 1  # lines before the current block

    def parse(self, block: bytes, offset: int) -> Columns:
        """Parse whole lines.

        Args:
            block: the lines' bytes.
            offset: position of the block, which is added to `begins`.
        Raises:
            ValueError: a line is malformed; names file and line.
        """
        zero = block.find(b"\0")
        if zero >= 0:
            raise ValueError(
                f"{self.path}, line {self._line + block.count(10, 0, zero) + 1}: the line has a zero byte, which paths "
                "cannot contain: the file is damaged. Create the manifest again."
            )
        text = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(text == _NEWLINE)
        if len(text) and text[-1] != _NEWLINE:
            ends = np.append(ends, len(text))
        begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        count = len(ends)
        ends = ends - ((ends > begins) & (text[np.maximum(ends - 1, 0)] == _RETURN))  # written on Windows
        lines = np.flatnonzero(ends > begins)  # skip blank lines
        begins, ends = begins[lines], ends[lines]
        columns = Columns(begins, begins, None)
        if len(lines):
            lines += self._line + 1  # line numbers of the file
            columns = self._split(block, text, begins, ends, lines)
        self._line += count
        return columns._replace(begins=columns.begins + offset)

    def _split(
        self, block: bytes, text: np.ndarray, begins: np.ndarray, ends: np.ndarray, lines: np.ndarray
    ) -> Columns:
        tabs = np.flatnonzero(text == _TAB)
        first = np.searchsorted(tabs, begins)
        columns = np.searchsorted(tabs, ends) - first + 1
        if self.columns == 0 and columns[0] in (2, 3):
            self.columns, self._first = int(columns[0]), int(lines[0])
        wrong = np.flatnonzero(columns != self.columns)
        if len(wrong):
            line, found = int(lines[wrong[0]]), int(columns[wrong[0]])
            if found not in (2, 3):
                raise self._error(line, f"number of columns: {found} instead of 2 or 3")
            raise self._error(line, f"number of columns: {found}, but line {self._first} has {self.columns}")
        name_ends = tabs[first]
        nameless = np.flatnonzero(name_ends == begins)
        if len(nameless):
            raise self._error(int(lines[nameless[0]]), "the path is missing")
        if self.columns == 2:
            return Columns(begins, self._numbers(block, text, name_ends + 1, ends, lines, "length"), None)
        second = tabs[first + 1]
        return Columns(
            begins,
            self._numbers(block, text, name_ends + 1, second, lines, "length"),
            self._numbers(block, text, second + 1, ends, lines, "start"),
        )

    def _numbers(
        self, block: bytes, text: np.ndarray, begins: np.ndarray, ends: np.ndarray, lines: np.ndarray, what: str
    ) -> np.ndarray:
        """Parse a column of all lines at once, digit by digit."""
        widths = ends - begins
        numbers = np.zeros(len(lines), dtype=np.int64)
        good = (widths > 0) & (widths <= _MAX_DIGITS)
        for place in range(int(min(widths.max(initial=0), _MAX_DIGITS))):
            has = place < widths
            digit = text[np.where(has, begins + place, 0)].astype(np.int64) - _ZERO
            good &= ~has | ((digit >= 0) & (digit <= 9))
            numbers = np.where(has, numbers * 10 + digit, numbers)
        wrong = np.flatnonzero(~good)
        if len(wrong):
            bad = wrong[0]
            column = block[begins[bad] : ends[bad]].decode(errors="replace")
            raise self._error(int(lines[bad]), f"the {what} {column!r} is not a valid number of frames")
        return numbers

    def _error(self, line: int, problem: str) -> ValueError:
        return ValueError(
            f"{self.path}, line {line}: {problem}. A line must be path<TAB>frames or path<TAB>frames<TAB>start, with "
            "the same columns in all lines."
        )


def read_root(file: BinaryIO, path: str) -> tuple[str, bytes]:
    """Read the first line of a manifest.

    Args:
        file: the manifest, at its beginning.
        path: its path, for messages.
    Returns:
        The root, and the line's bytes without byte order mark.
    Raises:
        ValueError: the file is empty or UTF-16, or the line is not a folder's.
    """
    line = file.readline()
    utf16 = line[:2] in _UTF16
    line = line.removeprefix(MARK)
    if not line:
        raise ValueError(f"the manifest {path} is empty. Its first line must be the root folder.")
    if utf16 or b"\0" in line.rstrip(b"\n"):
        raise ValueError(
            f"{path}, line 1: the file is UTF-16, but a manifest must be UTF-8. Convert it: iconv -f UTF-16 -t UTF-8"
        )
    root = os.fsdecode(line.strip())
    if "\r" in root:
        raise ValueError(f"{path}, line 1: lines end with a carriage return only. They must end with a line feed.")
    if "\t" in root:
        raise ValueError(
            f"{path}, line 1: {printable(root)!r} looks like the line of an audio file. The first line must be the "
            "folder that the paths are relative to: insert it ('/' if the paths are absolute)."
        )
    return root, line


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file in blocks of whole lines."""
    while block := file.read(_BLOCK):
        yield block + file.readline()
