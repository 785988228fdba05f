"""Byte ranges of local files."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import weakref
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from cffi import FFI

    Buffer = bytearray | memoryview | FFI.buffer

_KEPT_OPEN = 64  # archives per process
# bytes that are read at once: libsndfile asks for 8 kB at a time, and a call of a Python function for each of them
# would take longer than a copy
_AT_ONCE = 1 << 20


class _OpenFile:
    """An open file, closed when nothing refers to it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


@functools.lru_cache(_KEPT_OPEN)
def _opened(path: str, identity: tuple[int, ...]) -> _OpenFile:
    """Open a file once for all its ranges; a file that was replaced has another identity and is opened again."""
    return _OpenFile(path)


def open_range(path: str, status: os.stat_result, offset: int, length: int) -> BinaryIO:
    """Open a byte range of a local file as a binary file of its own.

    Args:
        path: the file.
        status: its status; a file that has changed is opened again.
        offset, length: the range, in bytes.
    Raises:
        OSError: the file cannot be read.
    """
    file = _opened(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    if length <= _AT_ONCE:
        return io.BytesIO(os.pread(file.descriptor, length, offset))
    return cast(BinaryIO, Window(file, offset, length))


# -- memory files ------------------------------------------------------------------------------------------------------

_free: list[int] = []  # memory files of this process that nobody uses
_KEPT_FREE = 4


class Staged:
    """Audio in an anonymous memory file, which libsndfile reads like a file on disk.

    libsndfile would call a Python object about 130 times for 14 s of FLAC, which takes a twentieth of the decoding;
    another copy takes a hundredth. It cannot be given the archive itself: from a descriptor at an offset, it decodes
    wrong samples after a seek.

    Args:
        descriptor: the memory file, at its beginning.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        """Keep the memory file for other audio; call it once, when nothing reads it any more."""
        if len(_free) < _KEPT_FREE:
            _free.append(self.descriptor)
        else:
            os.close(self.descriptor)


def _memory_file(length: int) -> int | None:
    """Return an empty memory file, which will get `length` bytes; None if the system has none."""
    try:
        descriptor = _free.pop()
    except IndexError:
        try:
            descriptor = os.memfd_create("audio")
        except (AttributeError, OSError):
            return None
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.ftruncate(descriptor, length)  # it may have been longer
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _after_fork() -> None:
    """Leave memory files to the parent: a shared one would have the other process's audio."""
    for descriptor in _free:
        os.close(descriptor)
    _free.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def staged_range(path: str, status: os.stat_result, offset: int, length: int) -> Staged | None:
    """Copy a byte range of a local file to memory, for libsndfile; see `open_range`.

    Returns:
        None if the range is long, or if the system cannot do it: then use `open_range`.
    """
    if not 0 < length <= _AT_ONCE or not hasattr(os, "sendfile"):
        return None
    file = _opened(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    descriptor = _memory_file(length)
    if descriptor is None:
        return None
    try:
        copied = 0
        while copied < length and (count := os.sendfile(descriptor, file.descriptor, offset + copied, length - copied)):
            copied += count
        if copied < length:
            os.ftruncate(descriptor, copied)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:  # a file system without it, or a read error, which `open_range` will report
        os.close(descriptor)
        return None
    return Staged(descriptor)


def staged_bytes(data: bytes) -> Staged | None:
    """Copy bytes to memory, for libsndfile; None if the system cannot do it."""
    descriptor = _memory_file(len(data))
    if descriptor is None:
        return None
    with contextlib.suppress(OSError):
        if os.pwrite(descriptor, data, 0) == len(data):
            return Staged(descriptor)
    os.close(descriptor)
    return None


class Window:
    """A long byte range, of which only what is needed is read.

    libsndfile reads through it with callbacks, which must not raise: after a read error the file ends.
    """

    def __init__(self, file: _OpenFile, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._place = file, offset, length, 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = 0 if whence == io.SEEK_SET else self._place if whence == io.SEEK_CUR else self._length
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer from the current position; return the number of bytes read."""
        left = self._length - self._place
        if len(buffer) > left:
            buffer = memoryview(buffer)[: max(0, left)]
        try:
            # pread: forked workers share the descriptor, and thus its position
            count = os.preadv(self._file.descriptor, [buffer], self._offset + self._place)
        except OSError:
            count = 0
        self._place += count
        return count

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; -1: all that are left."""
        left = max(0, self._length - self._place)
        data = bytearray(left if size < 0 else min(size, left))
        return bytes(data[: self.readinto(data)])

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: the file stays open for its other ranges."""
