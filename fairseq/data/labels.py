"""Label files: a line of units for each utterance of a manifest, read and encoded at once. Letter: U units of an
utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.data.dictionary import Dictionary
from fairseq.frames import ConvSpec, frames_for_samples

# bytes that are encoded at a time: what needs 30 times the text's memory is held for no more than this
_CHUNK = 1 << 22
_PACKED = 8  # bytes of a unit that one integer holds
_SHOWN = 5  # lines that an error lists of each kind


class Labels:
    """The units of all lines of a label file as numbers: one array, and where each line ends in it.

    The text itself is not kept: 960 hours of letters take 53 million bytes.
    """

    def __init__(self, units: np.ndarray, ends: np.ndarray, path: str = "the labels") -> None:
        self.units = units
        self.ends = ends
        self.lengths = np.diff(ends, prepend=0)  # U of every line
        self.files = [(path, 0)]  # file, and the number of its first line here

    @classmethod
    def from_lines(cls, lines: Sequence[Sequence[int]], path: str = "the labels") -> Labels:
        """Labels of lists of numbers."""
        units = (
            np.concatenate([np.asarray(line, dtype=np.int64) for line in lines])
            if len(lines)
            else np.zeros(0, dtype=np.int64)
        )
        return cls(units, np.cumsum([len(line) for line in lines], dtype=np.int64), path)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, line: int) -> np.ndarray:
        """Units of a line, U."""
        return self.units[self.ends[line - 1] if line else 0 : self.ends[line]]

    def place(self, line: int) -> str:
        """File and line as an error names them."""
        path, first = max((entry for entry in self.files if entry[1] <= line), key=lambda entry: entry[1])
        return f"{path}, line {line - first + 1}"

    def frames_needed(self) -> np.ndarray:
        """The fewest frames that each line's CTC path has: one a unit, and a blank between two equal ones."""
        if len(self.units) == 0:
            return self.lengths
        equal = np.zeros(len(self.units), dtype=np.int32)  # equal[k]: unit k is the same as unit k - 1
        equal[1:] = self.units[1:] == self.units[:-1]
        so_far = np.cumsum(equal, dtype=np.int32)
        starts = np.minimum(self.ends - self.lengths, len(self.units) - 1)
        return self.lengths + np.where(self.lengths > 1, so_far[np.maximum(self.ends - 1, 0)] - so_far[starts], 0)


def join(labels: Sequence[Labels]) -> Labels:
    """Labels of several manifests, one after the other."""
    if len(labels) == 1:
        return labels[0]
    ends = np.cumsum(np.concatenate([part.lengths for part in labels]))
    joined = Labels(np.concatenate([part.units for part in labels]), ends)
    firsts = np.cumsum([0, *(len(part) for part in labels)]).tolist()
    joined.files = [(part.files[0][0], first) for part, first in zip(labels, firsts, strict=False)]
    return joined


class UnitTable:
    """Encodes all units of a text at once.

    Units of one byte are looked up in a table, those of up to eight bytes as integers in a sorted list, longer ones one
    by one.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self.dtype = np.uint8 if len(dictionary) < 255 else np.uint16 if len(dictionary) < 65535 else np.int32
        self.unknown = np.iinfo(self.dtype).max
        spelled = {symbol.encode(): number for symbol, number in dictionary.indices.items()}
        self._single = np.full(256, self.unknown, dtype=np.int64)
        for unit, number in spelled.items():
            if len(unit) == 1:
                self._single[unit[0]] = number
        short = sorted(
            (int.from_bytes(unit, "little"), number) for unit, number in spelled.items() if len(unit) <= _PACKED
        )
        self._keys = np.array([key for key, _ in short], dtype=np.uint64)
        self._numbers = np.array([number for _, number in short], dtype=np.int64)
        self._long = {unit: number for unit, number in spelled.items() if len(unit) > _PACKED}

    def encode(self, text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(numbers, where each unit starts, where it ends) of what stands between white space."""
        array = np.frombuffer(text, dtype=np.uint8)
        inside = array > ord(" ")
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        widths = ends - starts
        numbers = self._single[array[starts]]
        wide = np.flatnonzero(widths > 1)
        if len(wide):
            numbers[wide] = self._encode_wide(text, array, starts[wide], widths[wide])
        return numbers.astype(self.dtype), starts, ends

    def _encode_wide(self, text: bytes, array: np.ndarray, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
        packed = np.zeros(len(starts), dtype=np.uint64)
        for place in range(int(min(widths.max(), _PACKED))):
            has = place < widths
            byte = array[np.where(has, starts + place, 0)].astype(np.uint64)
            packed |= np.where(has, byte << np.uint64(8 * place), np.uint64(0))
        found = np.minimum(np.searchsorted(self._keys, packed), len(self._keys) - 1)
        numbers = np.where(self._keys[found] == packed, self._numbers[found], self.unknown)
        for i in np.flatnonzero(widths > _PACKED).tolist():
            numbers[i] = self._long.get(text[starts[i] : starts[i] + widths[i]], self.unknown)
        return numbers


class _Unknown(NamedTuple):
    line: int  # from 1
    unit: str


def read_labels(path: str | Path, dictionary: Dictionary, dictionary_path: str = "the dictionary") -> Labels:
    """Read a label file.

    Raises:
        ValueError: no such file, or units that the dictionary does not have; names file, lines and what could be meant.
    """
    table = UnitTable(dictionary)
    units, counts, unknown, num_unknown, line = [], [], [], 0, 0
    for text in _chunks(path):
        numbers, starts, ends = table.encode(text)
        newlines = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        lines = np.searchsorted(newlines, starts)
        bad = np.flatnonzero(numbers == table.unknown)
        num_unknown += len(bad)
        for i in bad[: _SHOWN - len(unknown)].tolist():
            unknown.append(_Unknown(line + int(lines[i]) + 1, text[starts[i] : ends[i]].decode(errors="replace")))
        num_lines = len(newlines) + (not text.endswith(b"\n"))
        counts.append(np.bincount(lines, minlength=num_lines))
        units.append(numbers)
        line += num_lines
    if num_unknown:
        raise ValueError(_unknown_units(str(path), unknown, num_unknown, dictionary, dictionary_path))
    lengths = np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)
    return Labels(np.concatenate(units) if units else np.zeros(0, dtype=table.dtype), np.cumsum(lengths), str(path))


def _chunks(path: str | Path) -> Iterator[bytes]:
    """A file's text in pieces that end with a line, without its byte order mark."""
    advice = f". A manifest NAME.tsv has its labels next to it, NAME.<task.labels>. {_where_from(path)}"
    with text_files.named_errors(path, "the labels", advice), open(path, "rb") as file:
        text = file.read(_CHUNK)
        if text.startswith(text_files.UTF16_MARKS):
            raise ValueError(f"the labels {path} are UTF-16: save them as UTF-8")
        text = text.removeprefix(text_files.BOM)
        while text:
            yield text + file.readline()
            text = file.read(_CHUNK)


def _where_from(path: str | Path) -> str:
    """What makes a label file of this extension."""
    if Path(path).suffix in (".ltr", ".wrd"):
        return "fairseq-prepare-labels makes letters (.ltr) and words (.wrd) from transcripts"
    return (
        f"No script here makes {Path(path).suffix or 'such'} files: write a line of units for each of the "
        f"manifest's lines, with blanks between the units, and their dictionary dict{Path(path).suffix}.txt, a line "
        "`unit count` each"
    )


def _unknown_units(path: str, found: list[_Unknown], total: int, dictionary: Dictionary, dictionary_path: str) -> str:
    shown = "; ".join(f"line {line}: {unit!r}" for line, unit in found)
    message = (
        f"{path} has {total} unit(s) that {dictionary_path} does not have: "
        f"{shown}{' ...' if total > len(found) else ''}."
    )
    units = [unit for _, unit in found]
    for case, turned in (("upper", [unit.upper() for unit in units]), ("lower", [unit.lower() for unit in units])):
        if all(unit in dictionary for unit in turned):
            return (
                f"{message} The dictionary is in {case} case: write the labels in that case too, or make the "
                "dictionary from them."
            )
    if all(len(unit) > 1 and all(letter in dictionary for letter in unit) for unit in units):
        return (
            f"{message} They look like words, the dictionary has letters: letters stand apart, 'H E L L O | Y O U |'."
        )
    if Path(path).suffix in (".ltr", ".wrd"):
        return f"{message} Correct them, or make the dictionary from these labels (fairseq-prepare-labels)."
    return f"{message} Correct them, or add these units to the dictionary, a line `unit count` each."


# -- what cannot be learned --------------------------------------------------------------------------------------------


class Unusable(NamedTuple):
    """Utterances that CTC cannot learn from."""

    indices: np.ndarray  # int64, ascending
    reasons: list[str]  # of the first few, with file and line


def find_unusable(
    labels: Labels, lines: np.ndarray, sizes: np.ndarray, conv_layers: Sequence[ConvSpec] | None, blank: int
) -> Unusable:
    """Utterances without units, with the blank among them, or with more units than frames.

    Args:
        lines: the label line of each utterance.
        sizes: samples of each utterance.
        conv_layers: of the model's feature extractor; None: frames are not compared.
        blank: number of the blank.
    """
    lengths = labels.lengths
    with_blank = np.zeros(len(labels), dtype=bool)
    with_blank[np.searchsorted(labels.ends, np.flatnonzero(labels.units == blank), side="right")] = True
    lengths, with_blank = lengths[lines], with_blank[lines]
    needed, frames = lengths, lengths
    if conv_layers is not None:
        needed = labels.frames_needed()[lines]
        frames = np.asarray(frames_for_samples(sizes, list(conv_layers)))
    bad = np.flatnonzero((lengths == 0) | with_blank | (needed > frames))
    reasons = []
    for i in bad[:_SHOWN].tolist():
        if lengths[i] == 0:
            reason = "the label is empty"
        elif with_blank[i]:
            reason = "the label has the blank symbol, which no label may have"
        else:
            reason = (
                f"{lengths[i]} units need {needed[i]} frames (a blank between equal ones), but {sizes[i]} "
                f"samples make {frames[i]}"
            )
        reasons.append(f"{labels.place(int(lines[i]))}: {reason}")
    return Unusable(bad, reasons)
