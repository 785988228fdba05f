"""Arrays in files that data-loading workers map instead of copying, however the workers are started.

A forked worker shares the arrays of its parent anyway. A spawned one gets them pickled: here it gets the file's
descriptor, and maps the same memory. The file is an index beside a manifest, or has no name and lives in memory.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike

_Reduced = tuple[Callable[..., object], tuple[object, ...]]
_LARGE = 1 << 20  # bytes; smaller arrays are copied to spawned workers


class _Handle(Protocol):
    """A file descriptor on its way to another process."""

    def detach(self) -> int: ...


class Region(mmap.mmap):
    """A whole file, mapped for reading; it stays what it was if the file's name gets another file or is removed."""

    descriptor: int
    address: int  # of its first byte

    def __new__(cls, descriptor: int, size: int) -> Region:
        self = super().__new__(cls, descriptor, size, access=mmap.ACCESS_READ)
        self.descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self.descriptor)
        self.address = _address(np.frombuffer(self, np.uint8, 0))
        return self

    def array(self, dtype: str, offset: int, count: int) -> np.ndarray:
        """Return `count` values from byte `offset` on, read-only."""
        return np.frombuffer(self, np.dtype(dtype), count, offset)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def bytes_of(array: np.ndarray, first: int, last: int) -> bytes:
    """Return bytes `first` to `last` (excluded) of an array of bytes.

    Those of a mapped array are read from its file: the pages of a mapping that is read at random places would soon all
    count as memory of the process.
    """
    region = region_of(array)
    if region is None:
        return array[first:last].tobytes()
    return os.pread(region.descriptor, last - first, _address(array) - region.address + first)


def region_of(array: np.ndarray) -> Region | None:
    """Return the region that an array is a part of; None if it is not mapped."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, Region) else None


def _reduce_array(array: np.ndarray) -> _Reduced:
    region = region_of(array)
    if region is None or get_spawning_popen() is None or not array.flags.c_contiguous:
        return cast(_Reduced, array.__reduce_ex__(2))
    return _restore_array, (region, array.dtype.str, _address(array) - region.address, array.shape)


def _restore_array(region: Region, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    return region.array(dtype, offset, int(np.prod(shape))).reshape(shape)


def _reduce_region(region: Region) -> _Reduced:
    return _restore_region, (reduction.DupFd(region.descriptor), len(region))


def _restore_region(handle: _Handle, size: int) -> Region:
    descriptor = handle.detach()
    try:
        return Region(descriptor, size)
    finally:
        os.close(descriptor)


ForkingPickler.register(np.ndarray, _reduce_array)  # what multiprocessing pickles a new process's arguments with
ForkingPickler.register(Region, _reduce_region)


def nameless_file(folder: Path | None = None) -> BinaryIO:
    """Open a file without a name for reading and writing; in memory, or in a folder."""
    if folder is None and hasattr(os, "memfd_create"):
        return open(os.memfd_create("array"), "w+b")  # not /dev/shm, which is small in containers
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))


class Column:
    """An array that arrives in pieces, of which it copies none: large ones go to a file without a name.

    Args:
        dtype: type of the values.
        folder: the folder of that file; None: in memory.
    """

    def __init__(self, dtype: DTypeLike, folder: Path | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.size = 0  # values
        self._folder = folder
        self._pieces: list[np.ndarray] = []
        self._file: BinaryIO | None = None

    def append(self, values: np.ndarray) -> None:
        """Add values at the end."""
        self.size += len(values)
        if self._file is None and self.size * self.dtype.itemsize >= _LARGE:
            self._file = nameless_file(self._folder)
            for piece in self._pieces:
                self._file.write(piece.data)
            self._pieces = []
        values = np.ascontiguousarray(values, self.dtype)
        if self._file is None:
            self._pieces.append(values)
        else:
            self._file.write(values.data)

    def array(self) -> np.ndarray:
        """Return the values; large arrays are mapped."""
        if self._file is None:
            return np.concatenate([np.zeros(0, self.dtype), *self._pieces])
        self._file.flush()
        region = Region(self._file.fileno(), self.size * self.dtype.itemsize)
        return region.array(self.dtype.str, 0, self.size)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the values' bytes to a file."""
        if self._file is None:
            file.write(self.array().data)
            return
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 22)


def shared(array: np.ndarray) -> np.ndarray:
    """Return an array as it is if it is small or already mapped, else a mapped copy of it."""
    if array.nbytes < _LARGE or region_of(array) is not None:
        return array
    column = Column(array.dtype)
    column.append(array)
    return column.array()
