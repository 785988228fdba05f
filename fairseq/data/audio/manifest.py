"""Manifests: fairseq's two-column tsv of audio files, held as one block of bytes and a few arrays of numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

_NEWLINE, _TAB, _RETURN, _ZERO = (ord(c) for c in "\n\t\r0")
_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark, as editors on Windows write it
_MAX_DIGITS = 18  # of a frame count; more would not fit into int64


class Manifest:
    """Audio files and their lengths: line 1 is the root folder, every further line `path<TAB>frames`.

    A quarter of a million lines load in a fraction of a second; names stay undecoded bytes until they are asked for,
    and forked workers share them.

    Raises:
        ValueError: no such file, or a line of another form; names file and line. The root itself is not looked at: see
            `root_problem`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            with open(path, "rb") as file:
                self._text = file.read().removeprefix(_MARK)
        except OSError as error:
            raise ValueError(
                f"cannot read the manifest {path}: {error.strerror}. task.data is the folder that holds it; "
                "fairseq-manifest makes manifests"
            ) from error
        self.path = str(path)
        text = np.frombuffer(self._text, dtype=np.uint8)
        line_ends = np.flatnonzero(text == _NEWLINE)
        if len(text) and text[-1] != _NEWLINE:
            line_ends = np.append(line_ends, len(text))
        if len(line_ends) == 0:
            raise ValueError(f"the manifest {path} is empty: its first line must be the root folder")
        self._first_line = int(line_ends[0])
        self._check_encoding()
        self.root = os.fsdecode(self._text[: self._first_line].strip())
        self._check_root_line()
        begins, ends = line_ends[:-1] + 1, line_ends[1:].copy()
        ends -= (ends > begins) & (text[np.maximum(ends - 1, 0)] == _RETURN)  # written on Windows
        lines = np.flatnonzero(ends > begins)  # blank ones are nothing
        begins, ends = begins[lines], ends[lines]
        tabs = np.flatnonzero(text == _TAB)
        self._begins = begins
        self._lines = lines.astype(np.int32)
        self._name_ends = self._find_tabs(tabs, begins, ends, lines)
        self.sizes = self._parse_sizes(text, ends, lines)

    def _check_encoding(self) -> None:
        place = self._text.find(b"\0")
        if self._text[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 <= place < self._first_line:
            raise ValueError(
                f"{self.path}, line 1: the file is UTF-16; a manifest is UTF-8. Save it as UTF-8: iconv -f UTF-16 "
                "-t UTF-8"
            )
        if place >= 0:
            line = self._text.count(b"\n", 0, place) + 1
            raise ValueError(
                f"{self.path}, line {line}: a zero byte, which no path can have: the file is damaged. Make the "
                "manifest again"
            )

    def _check_root_line(self) -> None:
        if "\r" in self.root:
            raise ValueError(
                f"{self.path}, line 1: the lines end with a carriage return alone; end them with a line feed"
            )
        if "\t" not in self.root:
            return
        raise ValueError(
            f"{self.path}, line 1: {printable(self.root)!r} has the form of a file's line; the first line must be "
            "the folder that the paths below are relative to. Put that line above it ('/' where the paths are "
            "absolute)"
        )

    def root_problem(self) -> str | None:
        """A sentence that names file and line where the root is not a folder here; None if it is, or if paths are
        absolute.
        """
        if os.path.isdir(self.root or os.curdir) or (len(self) and os.path.isabs(self.name(0))):
            return None
        where = "" if os.path.isabs(self.root) else f", seen from {os.getcwd()}"
        found = "is a file, not a folder" if os.path.isfile(self.root) else "is not a folder here"
        problem = f"{self.path}, line 1: the root {printable(self.root)!r} {found}{where}."
        if not os.path.isabs(self.root):
            problem += " An absolute path begins with a slash."
        return f"{problem} Put the folder of the audio there, or mount it."

    def check_root(self) -> None:
        """Raise ValueError where `root_problem` has something to say."""
        problem = self.root_problem()
        if problem is not None:
            raise ValueError(problem)

    def _error(self, line: int, problem: str) -> ValueError:
        return ValueError(f"{self.path}, line {line + 2}: {problem}; a line must be path<TAB>frames")

    def _find_tabs(self, tabs: np.ndarray, begins: np.ndarray, ends: np.ndarray, lines: np.ndarray) -> np.ndarray:
        first = np.searchsorted(tabs, begins)
        count = np.searchsorted(tabs, ends) - first
        wrong = np.flatnonzero(count != 1)
        if len(wrong):
            raise self._error(int(lines[wrong[0]]), f"the number of columns is {count[wrong[0]] + 1}, not 2")
        name_ends = tabs[first]
        nameless = np.flatnonzero(name_ends == begins)
        if len(nameless):
            raise self._error(int(lines[nameless[0]]), "there is no path")
        return name_ends

    def _parse_sizes(self, text: np.ndarray, ends: np.ndarray, lines: np.ndarray) -> np.ndarray:
        """Digit by digit, for all lines at once."""
        begins = self._name_ends + 1
        widths = ends - begins
        sizes = np.zeros(len(lines), dtype=np.int64)
        good = (widths > 0) & (widths <= _MAX_DIGITS)
        for place in range(int(min(widths.max(initial=0), _MAX_DIGITS))):
            has = place < widths
            digit = text[np.where(has, begins + place, 0)].astype(np.int64) - _ZERO
            good &= ~has | ((digit >= 0) & (digit <= 9))
            sizes = np.where(has, sizes * 10 + digit, sizes)
        wrong = np.flatnonzero(~good)
        if len(wrong):
            bad = wrong[0]
            column = self._text[begins[bad] : ends[bad]].decode(errors="replace")
            raise self._error(
                int(lines[bad]), f"the length {column!r} is not a whole number of frames that a file can have"
            )
        return sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def listing(self) -> memoryview:
        """All lines but the root's, as they are; the same wherever the files lie."""
        return memoryview(self._text)[self._first_line :]

    def name(self, index: int) -> str:
        """The path column of an utterance."""
        return os.fsdecode(self._text[self._begins[index] : self._name_ends[index]])

    def file(self, index: int) -> str:
        """Where an utterance lies: the root and the path column."""
        return os.path.join(self.root, self.name(index))

    def places(self, indices: Sequence[int], shown: int = 5) -> str:
        """The first of these utterances by line and path, for a message."""
        return "; ".join(f"line {self._lines[index] + 2}: {printable(self.name(index))}" for index in indices[:shown])


class JoinedManifest:
    """Several manifests one after the other, each with a root of its own."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = list(manifests)
        self.offsets = np.cumsum([0, *(len(m) for m in self.manifests)])
        self.sizes = np.concatenate([m.sizes for m in self.manifests])
        self.path = ",".join(m.path for m in self.manifests)

    def __len__(self) -> int:
        return len(self.sizes)

    def _find(self, index: int) -> tuple[Manifest, int]:
        number = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return self.manifests[number], int(index - self.offsets[number])

    def name(self, index: int) -> str:
        manifest, own = self._find(index)
        return manifest.name(own)

    def file(self, index: int) -> str:
        manifest, own = self._find(index)
        return manifest.file(own)

    def check_root(self, index: int) -> None:
        """Of the manifest that lists this utterance."""
        self._find(index)[0].check_root()


def printable(name: str) -> str:
    """A name as text of valid UTF-8: bytes of another encoding become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
