"""Write a tar shard: utterances as members KEY.flac, KEY.json and KEY.txt, the same bytes each time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

UNFINISHED = ".part"  # the ending of files that are being written
_END = tarfile.RECORDSIZE  # bytes, at most, after the last member


class Member(NamedTuple):
    """A file in a shard."""

    name: str
    data: bytes

    def header(self) -> tarfile.TarInfo:
        """Return a header that says nothing of time, owner and machine."""
        info = tarfile.TarInfo(self.name)
        info.size = len(self.data)
        info.mode = 0o644
        return info

    def size(self) -> int:
        """Return the bytes that it takes in a shard."""
        # ustar, with a pax header only for names that are not ASCII and files of more than 8 GB
        header = len(self.header().tobuf(tarfile.PAX_FORMAT))
        return header + -(-len(self.data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class Finished(NamedTuple):
    """A complete shard, under its unfinished name."""

    size: int  # bytes
    sha256: str


class _Hashed(io.RawIOBase):
    """A file that is written from its beginning to its end, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256, self._place = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._file.write(data)
        self.sha256.update(data)
        self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place


class Shard:
    """A shard that is being written, under the name PATH.part; see `put_in_place`.

    Raises:
        OSError: the disk is full, for example.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(unfinished(path), "wb")  # noqa: SIM115
        self._hashed = _Hashed(self._file)
        self._tar = tarfile.open(fileobj=self._hashed, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._hashed.tell()

    def holds(self, size: int, limit: int) -> bool:
        """Return whether members of this size can follow without exceeding the limit."""
        return self.size + size + _END <= limit

    def add(self, members: Sequence[Member]) -> list[int]:
        """Append members; return the offset of each one's data in the shard."""
        offsets = []
        for member in members:
            self._tar.addfile(member.header(), io.BytesIO(member.data))
            padded = -(-len(member.data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            offsets.append(self.size - padded)
        return offsets

    def finish(self) -> Finished:
        """Write the end of the archive, and put everything on the disk."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Finished(self._hashed.tell(), self._hashed.sha256.hexdigest())

    def abandon(self) -> None:
        """Close and remove the unfinished file."""
        self._file.close()
        unfinished(self.path).unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def put_in_place(path: Path) -> None:
    """Give a finished file its final name, and put that on the disk."""
    os.replace(unfinished(path), path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
