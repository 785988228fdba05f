"""Find the transcripts of a manifest's utterances, and convert them to label lines."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from fairseq.data.audio.manifest import Manifest, printable
from fairseq.data.dictionary import Dictionary
from fairseq.text_files import read_lines

LAYOUTS = ("librispeech", "commonvoice", "tsv", "text")
WORD_END = "|"  # fairseq: follows each word if the units are letters
CASES = ("upper", "lower", "keep", "upper-tr", "lower-tr")
_SHOWN = 5  # letters listed in a message
_ZERO_WIDTH_SPACE = "\u200b"
_APOSTROPHES = re.compile(r"\u2019|(?<=\w)\u2018(?=\w)")  # \u2018 only within words: o\u2018zbek
_DOTS_IN_WORDS = re.compile(r"(?<=\w)[\u00b7\u2027](?=\w)")
_GEORGIAN = re.compile(r"([\u10d0-\u10ff]+)")


class TranscriptSource(Protocol):
    """A source of transcripts."""

    def text(self, manifest: Manifest, number: int) -> str | None:
        """Return the transcript of an utterance, or None."""
        ...


def _read(path: Path) -> list[str]:
    return read_lines(path, "the transcripts")


class LibriSpeech:
    """Files SPEAKER-CHAPTER.trans.txt next to the audio, with lines `UTTERANCE TRANSCRIPT`; read folder by folder.

    Raises:
        ValueError: the manifest has segments, but these transcripts belong to whole files.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._texts: dict[str, str] = {}

    def text(self, manifest: Manifest, number: int) -> str | None:
        if manifest.starts is not None:
            raise ValueError(
                f"{manifest.path} has segments (a third column), but these transcripts belong to whole files. Use "
                "fairseq-prepare-labels --layout text with one transcript per line of the manifest, or --layout tsv "
                f"with paths PATH:START-END, such as {printable(manifest.utterance(number))}."
            )
        return self.of(Path(manifest.file(number)))

    def of(self, file: Path) -> str | None:
        """Return the transcript of an audio file, or None."""
        if file.parent != self._folder:
            self._folder, self._texts = file.parent, {}
            for path in sorted(file.parent.glob("*.trans.txt")):
                self._texts.update(
                    (name, " ".join(text.split())) for name, _, text in (line.partition(" ") for line in _read(path))
                )
        return self._texts.get(file.stem)


class Table:
    """A tab-separated file of paths and transcripts, with a header (as in Common Voice) or without.

    A manifest's path is looked up as is, then by its file name without extension, since .mp3 corpora are converted
    before they are listed. A segment is looked up as PATH:START-END (samples) only: its file has others.

    Raises:
        ValueError: the file cannot be read, lacks these columns, or has two transcripts for one path.
    """

    def __init__(self, path: Path, path_column: str = "path", text_column: str = "sentence") -> None:
        lines = _read(path)
        header = lines[0].split("\t") if lines else []
        columns, first = (0, 1), 0
        if path_column in header:
            text = next((name for name in (text_column, "transcript", "text") if name in header), None)
            if text is None:
                raise ValueError(
                    f"{path}, line 1: no column is named {text_column!r}; the columns are {', '.join(header)}. Select "
                    "one with --text-column."
                )
            columns, first = (header.index(path_column), header.index(text)), 1
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, str] = {}
        for number, row in enumerate((line.split("\t") for line in lines[first:]), start=first + 1):
            if not any(row):
                continue
            if len(row) <= max(columns):
                raise ValueError(
                    f"{path}, line {number}: number of columns: {len(row)}. A line must be path<TAB>transcript, or the "
                    "header must name both columns."
                )
            name, text = row[columns[0]], row[columns[1]]
            if self._by_path.get(name, text) != text:
                raise ValueError(f"{path}, line {number}: a second, different transcript for {name}. Remove one.")
            self._by_path[name] = text
            stem = PurePosixPath(name).stem
            self._by_name[stem] = text if stem not in self._by_name else ""  # ambiguous names are not used

    def text(self, manifest: Manifest, number: int) -> str | None:
        if manifest.starts is not None:
            return self._by_path.get(manifest.utterance(number))
        name = manifest.name(number)
        return self._by_path.get(name) or self._by_name.get(PurePosixPath(name).stem)


class Lines:
    """A file with one transcript per line, in the manifest's order.

    Raises:
        ValueError: the number of lines differs from the manifest's number of utterances.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._lines = _read(path)
        if len(self._lines) != len(manifest):
            raise ValueError(
                f"{path} has {len(self._lines)} lines, but {manifest.path} has {len(manifest)} utterances. Write one "
                "transcript per utterance, in the manifest's order."
            )

    def text(self, manifest: Manifest, number: int) -> str | None:
        return self._lines[number]


def clean(text: str, case: str = "keep", keep: str = "'", removed: Counter[str] | None = None) -> str:
    """Reduce a transcript to words of letters, marks and digits of any script, separated by single spaces.

    Punctuation and symbols separate words, except invisible characters (`without_invisible`) and the middle dot of
    `col·legi`, which are removed.

    Args:
        case: one of `CASES`.
        keep: additional characters allowed in words.
        removed: counter of removed characters, updated in place.
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
    """Remove invisible characters (Unicode category Cf): joiners, non-joiners, soft hyphens, direction marks.

    They do not separate words, except the zero-width space, which Thai and Khmer use between words: it becomes a space.

    Args:
        keep: characters to keep.
        removed: counter of removed characters, updated in place.
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
    """Convert text to one of `CASES`.

    Georgian is not converted: its capitals are only for headlines, and corpora do not use them. `-tr` is for Turkish
    and Azerbaijani, where the capital of i is İ and the capital of ı is I.
    """
    if case == "upper-tr":
        text = text.replace("i", "\u0130").replace("\u0131", "I")
    if case == "lower-tr":
        text = text.replace("\u0130", "i").replace("I", "\u0131")
    if case.startswith("upper"):
        return "".join(part if _GEORGIAN.match(part) else part.upper() for part in _GEORGIAN.split(text))
    # Unicode's lower case of İ is two characters: i and a combining dot above
    return text.replace("\u0130", "i").lower() if case.startswith("lower") else text


def is_turkic(text: str) -> bool:
    """Return whether text has a letter that needs `upper-tr` or `lower-tr` instead of `upper` or `lower`."""
    return "\u0131" in text or "\u0130" in text


def letters(text: str) -> str:
    """Split text into letter units: `H E L L O | Y O U |`."""
    return " ".join(text.replace(" ", WORD_END)) + f" {WORD_END}"


def dictionary_of(lines: Iterable[str]) -> Dictionary:
    """Create a dictionary of the units in label lines, most frequent first."""
    dictionary = Dictionary()
    for unit, count in Counter(unit for line in lines for unit in line.split()).items():
        dictionary.add_symbol(unit, count)
    dictionary.finalize(padding_factor=1)
    return dictionary


def check_units(name: str, lines: Iterable[str], dictionary: Dictionary, what: str) -> None:
    """Raise ValueError for units in label lines that the dictionary does not have.

    Args:
        name: of the labels, for the message.
        lines: label lines, such as `letters` returns.
        what: description of the dictionary.
    """
    unknown: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        unknown.update((unit, number) for unit in set(line.split()) if unit not in unknown and unit not in dictionary)
    if unknown:
        shown = "; ".join(f"line {number}: {unit!r}" for unit, number in list(unknown.items())[:_SHOWN])
        raise ValueError(
            f"{name}: letters that {what} does not have: {len(unknown)} ({shown}). Remove or correct these lines, or "
            "move them to where the dictionary was made: what was never heard in training cannot be recognised"
        )


def case_warning(text: str, where: str, case: str) -> str | None:
    """Return a warning if text has letters that this case merges with others; None if it does not."""
    if case not in ("upper", "lower") or not is_turkic(text):
        return None
    return (
        f"the transcript of {where} has ı or İ, letters of Turkish and Azerbaijani. --case {case} merges ı and i: use "
        f"--case {case}-tr, or --case keep if the text already has a single case"
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:  # names in manifests need not be UTF-8
        file.writelines(line + "\n" for line in lines)
