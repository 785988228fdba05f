"""The run's metrics as JSON lines: one row per log interval, epoch or validation, appended to over resumes."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from torch import Tensor

from fairseq.logging.meters import to_plain

logger = logging.getLogger(__name__)

Json = Union[None, bool, int, float, str, list["Json"], dict[str, "Json"]]


class MetricsFile:
    """`metrics.jsonl`: rows of plain values, each with `num_updates`.

    A resumed run first calls `rewind`, so an update that it repeats has only one row. A file that cannot be read or
    written (a full disk, a folder with its name) is reported once, and training continues.
    """

    def __init__(self, path: Union[str, os.PathLike]) -> None:
        self.path = Path(path)
        self._failure_reported = False

    def rewind(self, update: int, continues: bool = True, again: Container[str] = ()) -> int:
        """Drop rows after `update` and rows that a crash truncated, and return how many were dropped.

        A file that cannot be changed is reported, and the run continues.

        Args:
            update: the update that was loaded; 0: a new run.
            continues: the rows belong to this run. If false and rows would be dropped, all are first saved in
                metrics.1.jsonl (2, 3 ...).
            again: splits whose rows of `update` itself are dropped too, because they will be written again.
        """
        try:
            return self._rewind(update, continues, again)
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._report(error)
            return 0

    def _rewind(self, update: int, continues: bool, again: Container[str]) -> int:
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if self._belongs_before(line, update, again)]
        if len(kept) == len(lines):
            return 0
        if not continues:
            aside = self._free_name()
            logger.info("%s has rows of an earlier run after update %d; saved them in %s", self.path, update, aside)
            if not kept:
                os.rename(self.path, aside)
                return len(lines)
            shutil.copyfile(self.path, aside)
        if lines[: len(kept)] == kept:  # the usual case, and it works on a full disk
            os.truncate(self.path, sum(map(len, kept)))
        else:
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_bytes(b"".join(kept))
            os.replace(temporary, self.path)
        return len(lines) - len(kept)

    def _free_name(self) -> Path:
        names = (self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}") for number in itertools.count(1))
        return next(name for name in names if not name.exists())

    @staticmethod
    def _belongs_before(line: bytes, update: int, again: Container[str]) -> bool:
        if not line.endswith(b"\n"):
            return False
        try:
            row = json.loads(line)
        except ValueError:
            return False
        if not isinstance(row, dict) or not isinstance(row.get("num_updates"), int):
            return False
        return row["num_updates"] < update or (row["num_updates"] == update and row.get("split", "") not in again)

    def write(self, split: str, update: int, epoch: int, stats: Mapping[str, object]) -> None:
        """Add one row; see `fairseq.logging.sinks.Sink`."""
        self.append({"split": split, "num_updates": update, "epoch": epoch, **stats})

    def close(self) -> None:
        """Do nothing: `write` writes each row at once."""

    def append(self, row: Mapping[str, object]) -> None:
        """Add one row.

        Args:
            row: must contain `num_updates`; values are numbers, strings, one-element tensors, or lists or dicts of
                these.
        Raises:
            ValueError: `num_updates` is missing.
        """
        if "num_updates" not in row:
            raise ValueError(
                f"A row of {self.path.name} must contain num_updates; this one has {', '.join(row) or 'no values'}."
            )
        plain = {key: json_value(value) for key, value in row.items()}
        plain["num_updates"] = int(to_plain(row["num_updates"]))
        line = json.dumps(plain, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                self._write_whole(file, line.encode())
        except OSError as error:
            self._report(error)

    @staticmethod
    def _write_whole(file: io.FileIO, line: bytes) -> None:
        """Write the whole line or nothing, so that the next line does not follow half of it."""
        before, rest = file.seek(0, os.SEEK_END), memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise

    def _report(self, error: OSError) -> None:
        if not self._failure_reported:
            logger.error(f"cannot write {self.path}: {error}; training continues without this file")
            self._failure_reported = True


def json_value(value: object) -> Json:
    """Convert a value to strict JSON; a number that is not finite becomes the string nan, inf or -inf."""
    plain = to_plain(value)
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    if isinstance(plain, dict):
        return {str(key): json_value(inner) for key, inner in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [json_value(inner) for inner in plain]
    return json_value(plain.tolist()) if isinstance(plain, (Tensor, np.ndarray)) else plain


_BLOCK = 1000  # lines that are parsed together


def read_rows(path: Union[str, os.PathLike], split: Optional[str] = None) -> list[dict[str, Any]]:
    """Read the rows of a metrics file, all or those of one `split`; skips rows that a crash truncated."""
    return [row for row in iterate_rows(path) if split is None or row.get("split") == split]


def iterate_rows(path: Union[str, os.PathLike]) -> Iterator[dict[str, Any]]:
    """Read the rows of a metrics file one after the other; skips rows that a crash truncated.

    Raises:
        OSError: at the first row, the file cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        while lines := list(itertools.islice(file, _BLOCK)):
            yield from (row for row in _parsed(lines) if isinstance(row, dict))


def _parsed(lines: list[str]) -> list[Any]:
    """Parse lines together, which takes two thirds of the time; one by one if a line is damaged."""
    try:
        rows = json.loads(f"[{','.join(lines)}]")
        if len(rows) == len(lines):
            return rows
    except ValueError:
        pass
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
