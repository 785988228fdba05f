"""Manifests: fairseq's two-column tsv of audio files, kept as one block of bytes and a few arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

_NEWLINE, _TAB, _RETURN, _ZERO = (ord(c) for c in "\n\t\r0")
_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark, as editors on Windows write it
_MAX_DIGITS = 18  # of a frame count; more would overflow int64


class Manifest:
    """Audio files and their lengths: line 1 is the root folder, every other line `path<TAB>frames`.

    250,000 lines load in a fraction of a second. Names are kept as bytes and decoded on use; forked workers share them.

    Raises:
        ValueError: the file does not exist, or a line is malformed; names file and line. The root folder itself is not
            checked: see `root_problem`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            with open(path, "rb") as file:
                self._text = file.read().removeprefix(_MARK)
        except OSError as error:
            raise ValueError(
                f"cannot read the manifest {path}: {error.strerror}. task.data must be the folder that holds it. "
                "Create manifests with fairseq-manifest."
            ) from error
        self.path = str(path)
        text = np.frombuffer(self._text, dtype=np.uint8)
        line_ends = np.flatnonzero(text == _NEWLINE)
        if len(text) and text[-1] != _NEWLINE:
            line_ends = np.append(line_ends, len(text))
        if len(line_ends) == 0:
            raise ValueError(f"the manifest {path} is empty. Its first line must be the root folder.")
        self._first_line = int(line_ends[0])
        self._check_encoding()
        self.root = os.fsdecode(self._text[: self._first_line].strip())
        self._check_root_line()
        begins, ends = line_ends[:-1] + 1, line_ends[1:].copy()
        ends -= (ends > begins) & (text[np.maximum(ends - 1, 0)] == _RETURN)  # written on Windows
        lines = np.flatnonzero(ends > begins)  # skip blank lines
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
                f"{self.path}, line 1: the file is UTF-16, but a manifest must be UTF-8. Convert it: iconv -f UTF-16 "
                "-t UTF-8"
            )
        if place >= 0:
            line = self._text.count(b"\n", 0, place) + 1
            raise ValueError(
                f"{self.path}, line {line}: the line has a zero byte, which paths cannot contain: the file is damaged. "
                "Create the manifest again."
            )

    def _check_root_line(self) -> None:
        if "\r" in self.root:
            raise ValueError(
                f"{self.path}, line 1: lines end with a carriage return only. They must end with a line feed."
            )
        if "\t" not in self.root:
            return
        raise ValueError(
            f"{self.path}, line 1: {printable(self.root)!r} looks like the line of an audio file. The first line must "
            "be the folder that the paths are relative to: insert it ('/' if the paths are absolute)."
        )

    def root_problem(self) -> str | None:
        """Return an error message if the root is not a folder; None if it is, or if paths are absolute."""
        if os.path.isdir(self.root or os.curdir) or (len(self) and os.path.isabs(self.name(0))):
            return None
        where = "" if os.path.isabs(self.root) else f", relative to {os.getcwd()}"
        found = "is a file, not a folder" if os.path.isfile(self.root) else "is not a folder on this machine"
        problem = f"{self.path}, line 1: the root {printable(self.root)!r} {found}{where}."
        if not os.path.isabs(self.root):
            problem += " Absolute paths begin with a slash."
        return f"{problem} Correct the line, or mount the folder."

    def check_root(self) -> None:
        """Raise ValueError with the message of `root_problem`, if there is one."""
        problem = self.root_problem()
        if problem is not None:
            raise ValueError(problem)

    def _error(self, line: int, problem: str) -> ValueError:
        return ValueError(f"{self.path}, line {line + 2}: {problem}. A line must be path<TAB>frames.")

    def _find_tabs(self, tabs: np.ndarray, begins: np.ndarray, ends: np.ndarray, lines: np.ndarray) -> np.ndarray:
        first = np.searchsorted(tabs, begins)
        count = np.searchsorted(tabs, ends) - first
        wrong = np.flatnonzero(count != 1)
        if len(wrong):
            raise self._error(int(lines[wrong[0]]), f"number of columns: {count[wrong[0]] + 1} instead of 2")
        name_ends = tabs[first]
        nameless = np.flatnonzero(name_ends == begins)
        if len(nameless):
            raise self._error(int(lines[nameless[0]]), "the path is missing")
        return name_ends

    def _parse_sizes(self, text: np.ndarray, ends: np.ndarray, lines: np.ndarray) -> np.ndarray:
        """Parse the frames column of all lines at once, digit by digit."""
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
            raise self._error(int(lines[bad]), f"the length {column!r} is not a valid number of frames")
        return sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def listing(self) -> memoryview:
        """Return the raw lines without the root's, so that the result does not depend on where the files are."""
        return memoryview(self._text)[self._first_line :]

    def name(self, index: int) -> str:
        """Return the path column of an utterance."""
        return os.fsdecode(self._text[self._begins[index] : self._name_ends[index]])

    def file(self, index: int) -> str:
        """Return the path of an utterance's file: the root joined with the path column."""
        return os.path.join(self.root, self.name(index))

    def places(self, indices: Sequence[int], shown: int = 5) -> str:
        """Return line and path of the first `shown` of these utterances, for a message."""
        return "; ".join(f"line {self._lines[index] + 2}: {printable(self.name(index))}" for index in indices[:shown])


class JoinedManifest:
    """Concatenation of several manifests, each with its own root."""

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
        """Check the root of the manifest that lists this utterance."""
        self._find(index)[0].check_root()


def printable(name: str) -> str:
    """Return a name as valid UTF-8 text, with bytes of other encodings written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
