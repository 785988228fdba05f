"""Transcripts of a corpus, found for each utterance of a manifest, and the label lines that they become."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from fairseq.data.audio.manifest import Manifest

LAYOUTS = ("librispeech", "commonvoice", "tsv", "text")
WORD_END = "|"  # fairseq: stands after each word where the units are letters


class Source(Protocol):
    """Where transcripts come from."""

    def text(self, manifest: Manifest, number: int) -> str | None:
        """The transcript of an utterance; None where there is none."""
        ...


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the transcripts {path}: {error}") from error
    if lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip("\r") for line in lines]


class LibriSpeech:
    """`SPEAKER-CHAPTER.trans.txt` beside the audio, a line `UTTERANCE TRANSCRIPT` each; read folder by folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._texts: dict[str, str] = {}

    def text(self, manifest: Manifest, number: int) -> str | None:
        file = Path(manifest.file(number))
        if file.parent != self._folder:
            self._folder, self._texts = file.parent, {}
            for path in sorted(file.parent.glob("*.trans.txt")):
                self._texts.update((name, " ".join(text.split())) for name, _, text in (line.partition(" ") for line in _read(path)))
        return self._texts.get(file.stem)


class Table:
    """A file of tab-separated columns: path and transcript, with a header that names them (as Common Voice has) or without.

    A manifest's path is looked up as it is, then by its file name without extension: corpora of .mp3 are listed after conversion.

    Raises:
        ValueError: it cannot be read, has no such columns, or two transcripts for one name.
    """

    def __init__(self, path: Path, path_column: str = "path", text_column: str = "sentence") -> None:
        lines = _read(path)
        header = lines[0].split("\t") if lines else []
        columns, first = (0, 1), 0
        if path_column in header:
            text = next((name for name in (text_column, "transcript", "text") if name in header), None)
            if text is None:
                raise ValueError(f"{path}: its header has no column {text_column!r}, but {', '.join(header)}: name it with --text-column")
            columns, first = (header.index(path_column), header.index(text)), 1
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        for number, row in enumerate(csv.reader(lines[first:], delimiter="\t", quoting=csv.QUOTE_NONE), start=first + 1):
            if len(row) <= max(columns):
                raise ValueError(f"{path}, line {number}: {len(row)} column(s); it must be path<TAB>transcript, or a header must name both")
            name, text = row[columns[0]], row[columns[1]]
            if self._by_path.get(name, text) != text:
                raise ValueError(f"{path}, line {number}: a second transcript for {name}")
            self._by_path[name] = text
            stem = PurePosixPath(name).stem
            self._by_name[stem] = text if stem not in self._by_name else ""  # a name met twice says nothing

    def text(self, manifest: Manifest, number: int) -> str | None:
        name = manifest.name(number)
        return self._by_path.get(name) or self._by_name.get(PurePosixPath(name).stem)


class Lines:
    """A transcript a line, in the manifest's order.

    Raises:
        ValueError: it does not have as many lines as the manifest has utterances.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._lines = _read(path)
        if len(self._lines) != len(manifest):
            raise ValueError(f"{path} has {len(self._lines)} lines, {manifest.path} has {len(manifest)} utterances: they must be in step")

    def text(self, manifest: Manifest, number: int) -> str | None:
        return self._lines[number]


def clean(text: str, case: str = "keep", keep: str = "'", removed: Counter[str] | None = None) -> str:
    """A transcript as words of letters, marks and digits of any script, one space between them.

    Args:
        case: upper, lower, or keep.
        keep: further characters that words may have.
        removed: counts the characters that were taken out.
    """
    text = unicodedata.normalize("NFC", text.replace("\u2019", "'"))
    text = {"upper": text.upper(), "lower": text.lower(), "keep": text}[case]
    characters = []
    for character in text:
        spoken = character in keep or unicodedata.category(character)[0] in "LMN"
        if not spoken and removed is not None and not character.isspace():
            removed[character] += 1
        characters.append(character if spoken else " ")
    return re.sub(r" +", " ", "".join(characters)).strip()


def letters(text: str) -> str:
    """Units of letters: `H E L L O | Y O U |`."""
    return " ".join(text.replace(" ", WORD_END)) + f" {WORD_END}"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:  # names in manifests need not be UTF-8
        file.writelines(line + "\n" for line in lines)
