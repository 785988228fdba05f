"""The run's metrics as JSON lines, one row per logged interval or validation, appended over resumes."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Optional, Union

from fairseq.logging.meters import to_plain

logger = logging.getLogger(__name__)


class MetricsFile:
    """`metrics.jsonl`: rows of plain values, each with `num_updates`.

    A resumed run first calls `rewind`, so the file never holds two rows of one update from two lives of the run. A file that cannot be
    written (a full disk) is reported once; training goes on.
    """

    def __init__(self, path: Union[str, os.PathLike]) -> None:
        self.path = Path(path)
        self._failure_reported = False

    def rewind(self, update: int) -> int:
        """Drop rows past `update`, the update that was loaded (0: a new run), and rows that a crash cut off. Returns how many went."""
        if not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if self._belongs_before(line, update)]
        if len(kept) < len(lines):
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            os.replace(temporary, self.path)
        return len(lines) - len(kept)

    @staticmethod
    def _belongs_before(line: str, update: int) -> bool:
        if not line.endswith("\n"):
            return False
        try:
            row = json.loads(line)
        except ValueError:
            return False
        return isinstance(row, dict) and isinstance(row.get("num_updates"), int) and row["num_updates"] <= update

    def append(self, row: dict[str, Any]) -> None:
        """Add one row. `num_updates` must be in it; other values may be numbers, strings, one-element tensors, lists or dicts of these."""
        if "num_updates" not in row:
            raise ValueError(f"A row of {self.path.name} needs num_updates; this one has {', '.join(row) or 'nothing'}.")
        plain = {key: _json_value(value) for key, value in row.items()}
        plain["num_updates"] = int(plain["num_updates"])
        line = json.dumps(plain, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                self._write_whole(file, line.encode())
        except OSError as error:
            self._report(error)

    @staticmethod
    def _write_whole(file: io.FileIO, line: bytes) -> None:
        """All of a line or nothing: what follows must not be glued to its first half."""
        before, rest = file.seek(0, os.SEEK_END), memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise

    def _report(self, error: OSError) -> None:
        if not self._failure_reported:
            logger.error(f"cannot write {self.path}: {error}; training goes on without this file's rows")
            self._failure_reported = True


def _json_value(value: Any) -> Any:
    """What strict JSON can hold: a number that is not finite becomes the string nan, inf or -inf."""
    value = to_plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _json_value(value.tolist())
    return value


def read_rows(path: Union[str, os.PathLike], split: Optional[str] = None) -> list[dict[str, Any]]:
    """All rows of a metrics file, or those whose `split` is this one; a row that a crash cut off is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and (split is None or row.get("split") == split)]
