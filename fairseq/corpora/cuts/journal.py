"""What is finished of a run of `fairseq-segment`, so that a killed one continues.

`NAME.segments.jsonl`: line 1 has what the segments depend on, each other line one finished line of the manifest. Lines
are only appended; one that a kill cut off is removed when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fairseq.corpora.cuts.recording import Recording

logger = logging.getLogger(__name__)

_SYNC = 5.0  # seconds between flushes to the disk; a kill loses nothing, a power failure at most this
_MISSING = -1


class Entry(NamedTuple):
    """A finished line of the manifest."""

    line: int  # 0: the first recording
    found: Recording | None
    error: str | None = None  # why the recording cannot be used

    def to_json(self) -> str:
        """Return one line of text."""
        if self.found is None:
            return json.dumps({"line": self.line, "error": self.error})
        return json.dumps({"line": self.line, **self.found._asdict()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes) -> Entry:
        """Read one line of text.

        Raises:
            ValueError: it is damaged.
        """
        try:
            values = json.loads(text)
            line = values.pop("line")
            if "error" in values:
                return cls(line, None, str(values["error"]))
            values |= {key: [(int(first), int(count)) for first, count in values[key]] for key in ("segments", "short")}
            return cls(line, Recording(**values))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a journal's line: {error!r}") from error


class Journal:
    """The file; locked while it is open.

    Args:
        path: is created if it does not exist.
        lines: recordings in the manifest.
        settings: everything that the segments depend on.
    Raises:
        ValueError: another process has it open, or it was written with other settings.
    """

    def __init__(self, path: str, lines: int, settings: dict[str, object]) -> None:
        self.path = path
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by __exit__
        self._places = np.full(lines, _MISSING, np.int64)  # byte of each line's latest entry
        self.failed: set[int] = set()
        self._synced = time.monotonic()
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is writing {self.path}. Wait until it ends, or choose another --dest."
            ) from None
        except OSError as error:  # a network file system without locks
            logger.warning("%s cannot be locked (%s): do not start a second run there", self.path, error.strerror)

    def _read(self, settings: dict[str, object]) -> None:
        self._file.seek(0)
        header = self._file.readline()
        end = len(header)
        if not header.endswith(b"\n"):
            self._file.truncate(0)
            self._write(json.dumps(settings))
            return
        self._check(header, settings)
        for text in self._file:
            if not text.endswith(b"\n"):
                break
            try:
                self._note(Entry.from_json(text), end)
            except (ValueError, IndexError):
                logger.warning("%s has a damaged line: that recording is done again", self.path)
            end += len(text)
        self._file.truncate(end)

    def _check(self, header: bytes, settings: dict[str, object]) -> None:
        try:
            found = json.loads(header)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path} is not a journal of fairseq-segment. Remove it, or choose another --dest.")
        other = [
            f"{key} {found.get(key)!r}, now {value!r}" for key, value in settings.items() if found.get(key) != value
        ]
        if other:
            raise ValueError(
                f"{self.path} was written with other settings ({'; '.join(other)}). Choose another --dest, or remove "
                "that file to start again."
            )

    def _note(self, entry: Entry, place: int) -> None:
        self._places[entry.line] = place
        (self.failed.discard if entry.error is None else self.failed.add)(entry.line)

    def _write(self, text: str) -> int:
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        return place

    def add(self, entry: Entry) -> None:
        """Record a finished line."""
        self._note(entry, self._write(entry.to_json()))

    def waiting(self) -> np.ndarray:
        """Return the lines to do: those without an entry, and those whose recording could not be read."""
        missing = self._places == _MISSING
        missing[list(self.failed)] = True
        return np.flatnonzero(missing)

    def entries(self) -> Iterator[Entry]:
        """Yield the latest entry of every line, in the manifest's order."""
        with open(self.path, "rb") as file:
            for place in self._places[self._places != _MISSING].tolist():
                if file.tell() != place:
                    file.seek(place)
                yield Entry.from_json(file.readline())
