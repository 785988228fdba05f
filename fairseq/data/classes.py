"""Classes of utterances: from label files, tables, or the paths in a manifest. Letter: K classes."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.data.audio.manifest import Manifest
from fairseq.data.dictionary import Dictionary

FOLDER = "folder"  # label pattern: the name of the folder that holds the file
_SHOWN = 5  # utterances or lines that an error lists
_KEYS = ("path", "file", "filename", "file_name", "utterance", "id", "audio")  # columns that identify an utterance
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass
class ClassColumn:
    """The label of each line of a manifest.

    Args:
        numbers: index in `names` of each line's label, int32.
        names: the labels that occur, in the order of their first line.
        origin: where the labels are from, for messages.
    """

    numbers: np.ndarray
    names: list[str] = field(default_factory=list)
    origin: str = "the labels"

    @classmethod
    def of(cls, labels: Iterable[str], origin: str) -> ClassColumn:
        indices: dict[str, int] = {}
        numbers = np.fromiter((indices.setdefault(label, len(indices)) for label in labels), dtype=np.int32)
        return cls(numbers, list(indices), origin)

    @classmethod
    def joined(cls, columns: Sequence[ClassColumn]) -> ClassColumn:
        """Concatenate the labels of several manifests."""
        if len(columns) == 1:
            return columns[0]
        labels = (column.names[number] for column in columns for number in column.numbers.tolist())
        return cls.of(labels, ", ".join(dict.fromkeys(column.origin for column in columns)))

    def counts(self) -> dict[str, int]:
        """Return the number of lines with each label."""
        return dict(zip(self.names, np.bincount(self.numbers, minlength=len(self.names)).tolist(), strict=True))


class LabelSource(NamedTuple):
    """Where a task's labels are: one of three places.

    Args:
        labels: extension of label files next to the manifests; or, with `table`, the column with the label.
        table: path of a .csv or .tsv file with a header line.
        pattern: regular expression whose first group, found in the path of the manifest's line, is the label; or
            `folder`.
    """

    labels: str | None
    table: str | None = None
    pattern: str | None = None

    def read(self, manifest_path: str, manifest: Manifest) -> ClassColumn:
        """Return the label of each line of a manifest.

        Raises:
            ValueError: a file is missing or malformed, or an utterance has no label; names file and lines.
        """
        if self.pattern is not None:
            return _from_paths(manifest, self.pattern)
        if self.table is not None:
            return _Table.read(self.table, self.labels).column_for(manifest)
        return _from_file(f"{os.path.splitext(manifest_path)[0]}.{self.labels}", manifest)


def _from_file(path: str, manifest: Manifest) -> ClassColumn:
    """Read one label per line; surrounding white space does not belong to it."""
    lines = [line.strip() for line in text_files.iterate_lines(path, "the labels")]
    if len(lines) != len(manifest):
        raise ValueError(
            f"{path} has {len(lines)} lines, but {manifest.path} has {len(manifest)} utterances. Line n of the labels "
            "must belong to line n + 1 of the manifest, whose first line is the root."
        )
    empty = [number for number, line in enumerate(lines, start=1) if not line]
    if empty:
        shown = ", ".join(map(str, empty[:_SHOWN])) + (" ..." if len(empty) > _SHOWN else "")
        raise ValueError(
            f"{path}: {len(empty)} of {len(lines)} lines have no label: {shown}. Write one label on each line, or "
            "remove these utterances from the manifest and the labels."
        )
    return ClassColumn.of(lines, path)


def _from_paths(manifest: Manifest, pattern: str) -> ClassColumn:
    """Take labels from the paths of a manifest."""
    names = [manifest.name(index) for index in range(len(manifest))]
    if pattern == FOLDER:
        found = [os.path.basename(os.path.dirname(name)) for name in names]
    else:
        try:
            matches = [re.search(pattern, name) for name in names]
        except re.error as error:
            raise ValueError(f"task.label_pattern={pattern!r} is not a valid regular expression: {error}") from error
        found = [(match.group(1) or "") if match is not None and match.groups() else "" for match in matches]
    missing = [index for index, label in enumerate(found) if not label]
    if missing:
        reason = (
            "their files are not in a folder below the root"
            if pattern == FOLDER
            else "the pattern's first group matches nothing in their paths"
        )
        raise ValueError(
            f"task.label_pattern={pattern!r} finds no label for {len(missing)} of {len(names)} utterances of "
            f"{manifest.path}, because {reason}: {manifest.places(missing, _SHOWN)}. Correct the pattern, or remove "
            "these lines."
        )
    return ClassColumn.of(found, f"the paths in {manifest.path}")


# -- tables ------------------------------------------------------------------------------------------------------------

# ways in which a table may name an utterance, the exact path first
_FORMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("path", lambda name: name),
    ("path without extension", lambda name: os.path.splitext(name)[0]),
    ("file name", os.path.basename),
    ("file name without extension", lambda name: os.path.splitext(os.path.basename(name))[0]),
)


class _Table(NamedTuple):
    path: str
    labels: dict[str, str]  # by the utterance's name in the table
    column: str  # of the names

    @classmethod
    def read(cls, path: str, column: str | None) -> _Table:
        """Read a table with a header line.

        Args:
            column: name of the column with the label; None: the only one besides that of the utterances' names.
        """
        delimiter = _DELIMITERS.get(os.path.splitext(path)[1].lower())
        if delimiter is None:
            raise ValueError(f"task.label_table={path!r} must end in .csv or .tsv.")
        quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
        rows = csv.reader(text_files.iterate_lines(path, "the label table"), delimiter=delimiter, quoting=quoting)
        header = [name.strip() for name in next(rows, [])]
        names, label = _columns(path, header, column)
        found: dict[str, str] = {}
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {rows.line_num}: {len(row)} columns, but the header has {len(header)}. Correct the "
                    "line."
                )
            key, value = row[names].strip(), row[label].strip()
            if found.setdefault(key, value) != value:
                raise ValueError(
                    f"{path}, line {rows.line_num}: {key!r} has the label {value!r}, but an earlier line says "
                    f"{found[key]!r}. Remove one of them."
                )
        return cls(path, found, header[names])

    def column_for(self, manifest: Manifest) -> ClassColumn:
        """Return the label of each line of a manifest; all lines must be named in the same way."""
        names = [manifest.name(index) for index in range(len(manifest))]
        found = {kind: [form(name) for name in names] for kind, form in _FORMS}
        # the form that finds most; of equally good ones the first, which is the most exact
        kind = max(found, key=lambda kind: sum(key in self.labels for key in found[kind]))
        keys = found[kind]
        missing = [index for index, key in enumerate(keys) if not self.labels.get(key)]
        if missing:
            raise ValueError(
                f"{self.path} has no label for {len(missing)} of {len(names)} utterances of {manifest.path}: "
                f"{manifest.places(missing, _SHOWN)}. Its column {self.column!r} must have their paths or file names, "
                "with or without the extension. Add the rows, or remove these lines from the manifest."
            )
        _one_file_per_key(self.path, kind, keys, names)
        return ClassColumn.of((self.labels[key] for key in keys), self.path)


def _columns(path: str, header: Sequence[str], column: str | None) -> tuple[int, int]:
    """Return the numbers of the columns with the utterances' names and with the labels."""
    names = next((header.index(key) for key in _KEYS if key in header and key != column), 0)
    others = [name for number, name in enumerate(header) if number != names]
    if column is None and len(others) == 1:
        column = others[0]
    if column not in others:
        raise ValueError(
            f"{path}, line 1: the columns are {', '.join(header) or 'none'}, and task.labels is {column!r}. Set "
            f"task.labels to the column with the label, one of: {', '.join(others) or 'none'}."
        )
    return names, header.index(column)


def _one_file_per_key(path: str, kind: str, keys: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError if two files of a manifest share a name in the table."""
    files: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if files.setdefault(key, name) != name:
            raise ValueError(
                f"{path} names utterances by {kind}, but {files[key]} and {name} of the manifest share the name "
                f"{key!r}. Write the paths of the manifest into the table."
            )


# -- the classes of a model --------------------------------------------------------------------------------------------


def dictionary_of(column: ClassColumn) -> Dictionary:
    """Make a dictionary of the labels, sorted by name, with their numbers of utterances; it has no special symbols.

    Raises:
        ValueError: there is only one label.
    """
    if len(column.names) < 2:
        found = f"only the label {column.names[0]!r}" if column.names else "no labels"
        raise ValueError(
            f"{column.origin}: the training data has {found}. A classifier needs at least two classes: check "
            "task.labels, task.label_table and task.label_pattern."
        )
    dictionary = Dictionary(add_special_symbols=False)
    counts = column.counts()
    for name in sorted(counts):
        dictionary.add_symbol(name, counts[name])
    return dictionary


def encode(column: ClassColumn, dictionary: Dictionary, manifest: Manifest, classes: str) -> np.ndarray:
    """Return the class of each line of a manifest, int32.

    Args:
        classes: where the dictionary's classes are from, for messages.
    Raises:
        ValueError: a label is not one of the classes; names the first lines.
    """
    table = np.array([dictionary.indices.get(name, -1) for name in column.names], dtype=np.int32)
    encoded = table[column.numbers]
    unknown = np.flatnonzero(encoded < 0)
    if len(unknown):
        names = [repr(name) for name in column.names if name not in dictionary]
        listed = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
        raise ValueError(
            f"{manifest.path}: {len(unknown)} of {len(encoded)} utterances have labels ({column.origin}) that are not "
            f"among the {len(dictionary)} classes of {classes}: {listed} "
            f"({manifest.places(unknown[:_SHOWN].tolist(), _SHOWN)}). Add utterances of these classes to the training "
            "data, or remove these lines."
        )
    return encoded
