"""Byte ranges of local files, read without copying them first."""

from __future__ import annotations

import functools
import io
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_KEPT_OPEN = 64  # archives per process; opening one costs as much as decoding 5 ms of audio


class _OpenFile:
    """An open file, closed when nothing refers to it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


@functools.lru_cache(_KEPT_OPEN)
def _opened(path: str, identity: tuple[int, ...]) -> _OpenFile:
    """Open a file once for all its ranges; a file that was replaced has another identity and is opened again."""
    return _OpenFile(path)


class Window(io.RawIOBase):
    """A byte range of a local file, as a binary file of its own.

    libsndfile reads through it with callbacks, which must not raise: after a read error the file ends.

    Args:
        path: the file.
        status: its status.
        offset, length: the range, in bytes.
    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, status: os.stat_result, offset: int, length: int) -> None:
        super().__init__()
        self._file = _opened(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        self._offset, self._length, self._place = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = 0 if whence == io.SEEK_SET else self._place if whence == io.SEEK_CUR else self._length
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer from the current position; return the number of bytes read."""
        view = memoryview(buffer).cast("B")[: max(0, self._length - self._place)]
        try:
            # pread: forked workers share the descriptor, and thus its position
            count = os.preadv(self._file.descriptor, [view], self._offset + self._place)
        except OSError:
            count = 0
        self._place += count
        return count
