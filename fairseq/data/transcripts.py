"""Transcripts of a corpus, found for each utterance of a manifest, and the label lines that they become."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from fairseq.data.audio.manifest import Manifest
from fairseq.data.dictionary import Dictionary
from fairseq.text_files import read_lines

LAYOUTS = ("librispeech", "commonvoice", "tsv", "text")
WORD_END = "|"  # fairseq: stands after each word where the units are letters
CASES = ("upper", "lower", "keep", "upper-tr", "lower-tr")
_ZERO_WIDTH_SPACE = "\u200b"
_APOSTROPHES = re.compile(r"\u2019|(?<=\w)\u2018(?=\w)")  # the second one within words only: o\u2018zbek
_DOTS_IN_WORDS = re.compile(r"(?<=\w)[\u00b7\u2027](?=\w)")
_GEORGIAN = re.compile(r"([\u10d0-\u10ff]+)")


class TranscriptSource(Protocol):
    """Where transcripts come from."""

    def text(self, manifest: Manifest, number: int) -> str | None:
        """The transcript of an utterance; None where there is none."""
        ...


def _read(path: Path) -> list[str]:
    return read_lines(path, "the transcripts")


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
                self._texts.update(
                    (name, " ".join(text.split())) for name, _, text in (line.partition(" ") for line in _read(path))
                )
        return self._texts.get(file.stem)


class Table:
    """A file of tab-separated columns: path and transcript, with a header that names them (as Common Voice has) or
    without.

    A manifest's path is looked up as it is, then by its file name without extension: corpora of .mp3 are listed after
    conversion.

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
                raise ValueError(
                    f"{path}: its header has no column {text_column!r}, but {', '.join(header)}: name it with "
                    "--text-column"
                )
            columns, first = (header.index(path_column), header.index(text)), 1
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        for number, row in enumerate((line.split("\t") for line in lines[first:]), start=first + 1):
            if not any(row):
                continue
            if len(row) <= max(columns):
                raise ValueError(
                    f"{path}, line {number}: {len(row)} column(s); it must be path<TAB>transcript, or a header must "
                    "name both"
                )
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
            raise ValueError(
                f"{path} has {len(self._lines)} lines, {manifest.path} has {len(manifest)} utterances: they must be "
                "in step"
            )

    def text(self, manifest: Manifest, number: int) -> str | None:
        return self._lines[number]


def clean(text: str, case: str = "keep", keep: str = "'", removed: Counter[str] | None = None) -> str:
    """A transcript as words of letters, marks and digits of any script, one space between them.

    Punctuation and symbols separate words, except marks within a word (`without_invisible`, and the middle dot of
    `col·legi`).

    Args:
        case: one of `CASES`.
        keep: further characters that words may have.
        removed: counts the characters that were taken out.
    """
    text = unicodedata.normalize("NFC", _APOSTROPHES.sub("'", text))
    text = _DOTS_IN_WORDS.sub(
        lambda dot: dot[0] if dot[0] in keep else _taken(dot[0], removed), without_invisible(text, keep, removed)
    )
    text = unicodedata.normalize("NFC", in_case(text, case))
    characters = []
    for character in text:
        spoken = character in keep or unicodedata.category(character)[0] in "LMN"
        if not spoken and removed is not None and not character.isspace():
            removed[character] += 1
        characters.append(character if spoken else " ")
    return re.sub(r" +", " ", "".join(characters)).strip()


def _taken(character: str, removed: Counter[str] | None) -> str:
    if removed is not None:
        removed[character] += 1
    return ""


def without_invisible(text: str, keep: Container[str] = "", removed: Counter[str] | None = None) -> str:
    """Text without characters that nobody sees: joiners and non-joiners, soft hyphens, marks of direction (Unicode
    category Cf).

    They stand within words and do not separate them. The zero-width space does: Thai and Khmer write it between words.

    Args:
        keep: characters that stay.
        removed: counts those that were taken out.
    """
    if text.isascii():
        return text
    characters = []
    for character in text:
        if unicodedata.category(character) != "Cf" or character in keep:
            characters.append(character)
        else:
            characters.append(" " if character == _ZERO_WIDTH_SPACE else "")
            _taken(character, removed)
    return "".join(characters)


def in_case(text: str, case: str) -> str:
    """Text in one of `CASES`.

    Georgian stays as it is: its capitals are for headlines, and no corpus is written in them. `-tr` is the case of
    Turkish and Azerbaijani, where the capital of i is İ and that of ı is I.
    """
    if case == "upper-tr":
        text = text.replace("i", "\u0130").replace("\u0131", "I")
    if case == "lower-tr":
        text = text.replace("\u0130", "i").replace("I", "\u0131")
    if case.startswith("upper"):
        return "".join(part if _GEORGIAN.match(part) else part.upper() for part in _GEORGIAN.split(text))
    # Unicode's own lower case of İ is two characters, i and a dot above
    return text.replace("\u0130", "i").lower() if case.startswith("lower") else text


def is_turkic(text: str) -> bool:
    """Whether text has a letter for which `upper` and `lower` are wrong and `upper-tr` and `lower-tr` are right."""
    return "\u0131" in text or "\u0130" in text


def letters(text: str) -> str:
    """Units of letters: `H E L L O | Y O U |`."""
    return " ".join(text.replace(" ", WORD_END)) + f" {WORD_END}"


def dictionary_of(lines: Iterable[str]) -> Dictionary:
    """The units of label lines, most frequent first."""
    dictionary = Dictionary()
    for unit, count in Counter(unit for line in lines for unit in line.split()).items():
        dictionary.add_symbol(unit, count)
    dictionary.finalize(padding_factor=1)
    return dictionary


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:  # names in manifests need not be UTF-8
        file.writelines(line + "\n" for line in lines)
