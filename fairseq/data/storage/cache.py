"""A cache of byte ranges on a local disk, which processes of a machine share.

An entry is a file: a line of JSON with the object's URL and version, then the bytes. It appears under its name only
when it is complete. Space is reserved under a lock before an entry is written, so that the files never take more than
the limit. A killed process leaves at most a temporary file, which a later eviction removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fairseq.data.storage.answers import Fetched, Stamp

logger = logging.getLogger(__name__)

_BLOCK = 4096  # bytes in which disks allocate
_KEPT = 0.9  # share of the limit that an eviction leaves
_FRESH = 60.0  # seconds in which a use need not be recorded again
_ABANDONED = 3600.0  # seconds after which a temporary file belongs to no process
_IN_USE = float("inf")  # time of the last use of a file that a process is writing
_numbers = itertools.count()


class _Entry(NamedTuple):
    used: float  # time of the last use
    size: int
    path: str


class Cache:
    """Byte ranges in a folder; those not used for the longest time are removed first.

    Args:
        folder: the folder, created if it does not exist.
        limit: bytes that the files may take.
    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._temporary = self.folder / "temporary"
        self._entries = self.folder / "entries"
        self._is_full = False
        try:
            for part in (self._temporary, self._entries):
                part.mkdir(parents=True, exist_ok=True)
            with self._locked() as total:
                self._write_total(self._evict(self.limit) if total is None else total)
        except OSError as error:
            raise ValueError(
                f"task.cache_dir={folder} cannot be used: {error.strerror or error}. It must be a folder on a local "
                "disk that can be written."
            ) from error

    def _path(self, url: str, begin: int, end: int) -> Path:
        name = hashlib.blake2b(f"{url}\n{begin}\n{end}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self._entries / name[:2] / name

    def get(self, url: str, begin: int, end: int) -> Fetched | None:
        """Return a range, with the version that it is from; None if it is not here, or damaged."""
        path = self._path(url, begin, end)
        try:
            with open(path, "rb") as file:
                header, data = file.readline(), file.read()
                if time.time() - os.fstat(file.fileno()).st_mtime > _FRESH:
                    os.utime(path)
        except OSError:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            known = json.loads(header)
            if known["url"] == url and known["length"] == len(data) and known["crc32"] == zlib.crc32(data):
                return Fetched(data, Stamp(known["tag"], known["size"]))
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, url: str, begin: int, end: int, fetched: Fetched) -> None:
        """Keep a range. If the disk is full, it is not kept, and a warning is logged once."""
        data, (tag, size) = fetched
        header = {"url": url, "tag": tag, "size": size, "length": len(data), "crc32": zlib.crc32(data)}
        line = json.dumps(header).encode() + b"\n"
        path = self._path(url, begin, end)
        temporary = self._temporary / f"{os.getpid()}-{next(_numbers)}-{time.time_ns()}"
        try:
            if not self._reserve(temporary, len(line) + len(data)):
                return
            with open(temporary, "r+b") as file:
                file.write(line)
                file.write(data)
            path.parent.mkdir(exist_ok=True)
            os.replace(temporary, path)
        except OSError as error:
            if not self._is_full:
                self._is_full = True
                logger.warning("task.cache_dir: cannot write to %s: %s", self.folder, error.strerror or error)
            with contextlib.suppress(OSError):
                temporary.unlink()

    # -- space ---------------------------------------------------------------------------------------------------------

    def _reserve(self, temporary: Path, length: int) -> bool:
        """Make room for a file, and create it empty; return False if it exceeds the limit by itself."""
        size = _on_disk(length)
        if size > self.limit * _KEPT:
            return False
        with self._locked() as total:
            if total is None or total + size > self.limit:
                total = self._evict(int(self.limit * _KEPT) - size)
            with open(temporary, "xb") as file:
                file.truncate(length)  # so that others who count see it
            self._write_total(total + size)
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Hold the lock of all processes; yields the bytes in use, None if they are not known."""
        # opened for each use, because threads that share an open file share its lock; a killed process loses it
        with open(self.folder / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = b""
            with contextlib.suppress(OSError):
                text = (self.folder / "total").read_bytes()
            yield int(text) if text.isdigit() else None

    def _write_total(self, total: int) -> None:
        (self.folder / "total").write_bytes(b"%d" % total)

    def _evict(self, room: int) -> int:
        """Remove the entries that were used longest ago until the rest takes at most `room` bytes; return its size."""
        entries = sorted(self._scan())
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= room or entry.used == _IN_USE:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
            total -= entry.size
        return total

    def _scan(self) -> Iterator[_Entry]:
        folders = [self._temporary, *(Path(part.path) for part in os.scandir(self._entries) if part.is_dir())]
        for folder in folders:
            for file in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    if folder != self._temporary:
                        yield _Entry(status.st_mtime, _on_disk(status.st_size), file.path)
                    elif time.time() - status.st_mtime > _ABANDONED:
                        os.unlink(file.path)
                    else:
                        yield _Entry(_IN_USE, _on_disk(status.st_size), file.path)


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
