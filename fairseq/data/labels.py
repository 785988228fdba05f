"""Read and encode label files: one line of units per utterance of a manifest. Letter: U units of an utterance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.data.dictionary import Dictionary
from fairseq.data.mapped import Column, shared
from fairseq.frames import ConvSpec, frames_for_samples

# bytes that are encoded at a time; encoding takes 30 times this memory
_CHUNK = 1 << 22
_LINES, _UNITS = 1 << 16, 1 << 24  # lines and units that are looked at together
_PACKED = 8  # bytes of a unit that fit into one integer
_SHOWN = 5  # maximum number of lines that an error lists


class Labels:
    """The units of all lines of a label file: one array of indices, and the end of each line in it.

    The text is not kept: the letters of 960 hours take 53 million bytes. Workers map large arrays: see `mapped`.
    """

    def __init__(self, units: np.ndarray, ends: np.ndarray, path: str = "the labels") -> None:
        self.units = units
        self.ends = ends
        self.lengths = shared(np.diff(ends, prepend=0))  # U of every line
        self.files = [(path, 0)]  # (file, index of its first line)

    @classmethod
    def from_lines(cls, lines: Sequence[Sequence[int]], path: str = "the labels") -> Labels:
        """Create labels from lists of indices."""
        units = (
            np.concatenate([np.asarray(line, dtype=np.int64) for line in lines])
            if len(lines)
            else np.zeros(0, dtype=np.int64)
        )
        return cls(units, np.cumsum([len(line) for line in lines], dtype=np.int64), path)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, line: int) -> np.ndarray:
        """Return the units of a line, U."""
        return self.units[self.ends[line - 1] if line else 0 : self.ends[line]]

    def place(self, line: int) -> str:
        """Return file and line number for an error message."""
        path, first = max((entry for entry in self.files if entry[1] <= line), key=lambda entry: entry[1])
        return f"{path}, line {line - first + 1}"

    def frames_needed(self) -> np.ndarray:
        """Return the minimum frames of each line's CTC path: one per unit, and one blank between equal units."""
        needed = self.lengths.copy()
        for first in range(0, len(self), _LINES):
            lines = slice(first, first + _LINES)
            lengths = self.lengths[lines]
            begin, end = int(self.ends[first] - lengths[0]), int(self.ends[lines][-1])
            units = self.units[begin:end]
            equal = np.zeros(len(units) + 1, dtype=np.int32)  # equal[k]: unit k equals unit k - 1
            equal[1:-1] = units[1:] == units[:-1]
            so_far = np.cumsum(equal, dtype=np.int32)
            ends = self.ends[lines] - begin
            needed[lines] += np.where(lengths > 1, so_far[np.maximum(ends - 1, 0)] - so_far[ends - lengths], 0)
        return needed


def join(labels: Sequence[Labels]) -> Labels:
    """Concatenate the labels of several manifests."""
    if len(labels) == 1:
        return labels[0]
    ends = np.cumsum(np.concatenate([part.lengths for part in labels]))
    units = Column(np.result_type(*(part.units for part in labels)))
    for part in labels:
        units.append(part.units)
    joined = Labels(units.array(), shared(ends))
    firsts = np.cumsum([0, *(len(part) for part in labels)]).tolist()
    joined.files = [(part.files[0][0], first) for part, first in zip(labels, firsts, strict=False)]
    return joined


class UnitTable:
    """Encodes all units of a text at once.

    Units of one byte are looked up in a table, units of up to eight bytes as integers in a sorted array, and longer
    units in a dict.
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
        """Encode units separated by white space; return (indices, start of each unit, end of each unit)."""
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
        ValueError: the file does not exist, or has units that the dictionary does not have; names file and lines.
    """
    table = UnitTable(dictionary)
    units, counts = Column(table.dtype), Column(np.int64)
    unknown: list[_Unknown] = []
    num_unknown = line = 0
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
    return Labels(units.array(), shared(np.cumsum(counts.array())), str(path))


def _chunks(path: str | Path) -> Iterator[bytes]:
    """Yield a file's text in chunks of whole lines, without its byte order mark."""
    advice = f". The labels of NAME.tsv must be next to it, in NAME.<task.labels>. {_where_from(path)}"
    with text_files.named_errors(path, "the labels", advice), open(path, "rb") as file:
        text = file.read(_CHUNK)
        if text.startswith(text_files.UTF16_MARKS):
            raise ValueError(f"the labels {path} are UTF-16. Save them as UTF-8.")
        text = text.removeprefix(text_files.BOM)
        while text:
            yield text + file.readline()
            text = file.read(_CHUNK)


def _where_from(path: str | Path) -> str:
    """Describe how to create a label file with this extension."""
    if Path(path).suffix in (".ltr", ".wrd"):
        return "fairseq-prepare-labels creates letters (.ltr) and words (.wrd) from transcripts."
    return (
        f"No script here creates {Path(path).suffix or 'such'} files: write one line of units, separated by spaces, "
        f"per utterance of the manifest, and a dictionary dict{Path(path).suffix}.txt with one line `unit count` per "
        "unit."
    )


def _unknown_units(path: str, found: list[_Unknown], total: int, dictionary: Dictionary, dictionary_path: str) -> str:
    shown = "; ".join(f"line {line}: {unit!r}" for line, unit in found)
    more = " ..." if total > len(found) else ""
    message = f"{path} has units that {dictionary_path} does not have ({total} occurrences): {shown}{more}."
    units = [unit for _, unit in found]
    for case, turned in (("upper", [unit.upper() for unit in units]), ("lower", [unit.lower() for unit in units])):
        if all(unit in dictionary for unit in turned):
            return (
                f"{message} The dictionary is in {case} case: convert the labels to {case} case, or create the "
                "dictionary from them."
            )
    if all(len(unit) > 1 and all(letter in dictionary for letter in unit) for unit in units):
        return (
            f"{message} They look like words, but the dictionary has letters: separate the letters by spaces, as in "
            "'H E L L O | Y O U |'."
        )
    if Path(path).suffix in (".ltr", ".wrd"):
        return f"{message} Correct them, or create the dictionary from these labels (fairseq-prepare-labels)."
    return f"{message} Correct them, or add these units to the dictionary, one line `unit count` each."


# -- labels that CTC cannot learn --------------------------------------------------------------------------------------


class Unusable(NamedTuple):
    """Utterances that CTC cannot learn from."""

    indices: np.ndarray  # int64, ascending
    reasons: list[str]  # for the first few, with file and line


def find_unusable(
    labels: Labels, lines: np.ndarray, sizes: np.ndarray, conv_layers: Sequence[ConvSpec] | None, blank: int
) -> Unusable:
    """Find utterances whose label is empty, contains the blank, or needs more frames than there are.

    Args:
        labels: the labels.
        lines: the label line of each utterance.
        sizes: samples of each utterance.
        conv_layers: layers of the model's feature extractor; None: do not check frames.
        blank: index of the blank.
    """
    lengths = labels.lengths
    with_blank = np.zeros(len(labels), dtype=bool)
    for first in range(0, len(labels.units), _UNITS):
        blanks = first + np.flatnonzero(labels.units[first : first + _UNITS] == blank)
        with_blank[np.searchsorted(labels.ends, blanks, side="right")] = True
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
            reason = "the label contains the blank symbol, which is not allowed"
        else:
            reason = (
                f"{lengths[i]} units need {needed[i]} frames (with a blank between equal units), but {sizes[i]} "
                f"samples give only {frames[i]}"
            )
        reasons.append(f"{labels.place(int(lines[i]))}: {reason}")
    return Unusable(bad, reasons)
