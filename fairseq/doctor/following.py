"""Follow the files in which a run that trains keeps what its rows do not hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fairseq.doctor.reading import CODES, HYPOTHESES, RUN
from fairseq.doctor.records import Records
from fairseq.logging.metrics_file import Json

NEWEST = 400  # lines of codes.jsonl and hypotheses.jsonl that are kept in memory, each


class Followed:
    """The files of a folder, read as they grow.

    Args:
        folder: `checkpoint.save_dir`.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {name: _Growing(folder / name) for name in (RUN, CODES, HYPOTHESES)}

    def read_into(self, records: Records) -> None:
        """Add the lines that are new to the records."""
        for line in self._files[RUN].new():
            for name, values in (("environment", records.environment), ("data", records.data)):
                found = line.get(name)
                if isinstance(values, dict) and isinstance(found, dict):
                    values.update(found)
        for name, lines in ((CODES, records.codes), (HYPOTHESES, records.hypotheses)):
            lines += self._files[name].new()
            del lines[:-NEWEST]


class _Growing:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[Mapping[str, Json]]:
        """The whole lines since the last call; none if the file cannot be read."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "num_updates" in value:
                found.append(value)
        return found
