"""Files with a JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from fairseq.corpora.pack.source import Json
from fairseq.text_files import iterate_lines

Facts: TypeAlias = dict[str, Json]


class Place:
    """A line of a file, for messages."""

    def __init__(self, file: Path, number: int) -> None:
        self.file, self.number = file, number

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self}: {problem}")


def objects(file: Path, what: str) -> Iterator[tuple[Place, Facts]]:
    """Yield (place, object) of each line that is not blank; compressed files are decompressed.

    Raises:
        ValueError: the file cannot be read, or a line is not a JSON object; names file and line.
    """
    for number, line in enumerate(iterate_lines(file, what), start=1):
        if not line.strip():
            continue
        place = Place(file, number)
        try:
            facts = json.loads(line)
        except ValueError as error:
            raise place.error(f"not JSON ({error}).") from error
        if not isinstance(facts, dict):
            raise place.error("a line must be a JSON object.")
        yield place, facts


def first_object(file: Path) -> Facts:
    """Return the first line's object; {} if the file has none or is something else."""
    try:
        return next(objects(file, "the source"), (None, {}))[1]
    except (ValueError, OSError):
        return {}


def number(facts: Facts, name: str, place: Place, default: float | None = None) -> float | None:
    """Return a field that must be a number of at least 0, or null or missing.

    Raises:
        ValueError: it is something else.
    """
    value = facts.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise place.error(f"{name} is {value!r}; it must be a number of at least 0.")
    return value


def text(facts: Facts, name: str) -> str | None:
    """Return a field as text; None if it is null or missing."""
    value = facts.get(name)
    return None if value is None else str(value)
