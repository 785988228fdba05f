"""Arrays that wait to be read again: in memory while they are few, then in a temporary file."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import NamedTuple

import numpy as np

_IN_MEMORY = 8 << 20  # bytes


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class ArrayStore:
    """A list of arrays. Beyond 8 MB they are on disk, in the folder for temporary files (TMPDIR)."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by __exit__
        self._places: list[_Place] = []
        self._end = 0

    def __enter__(self) -> ArrayStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def append(self, array: np.ndarray) -> None:
        self._file.seek(self._end)
        self._file.write(np.ascontiguousarray(array).data)
        self._places.append(_Place(self._end, array.shape, array.dtype))
        self._end += array.nbytes

    def __getitem__(self, number: int) -> np.ndarray:
        place = self._places[number]
        self._file.seek(place.offset)
        size = int(np.prod(place.shape)) * place.dtype.itemsize
        return np.frombuffer(self._file.read(size), place.dtype).reshape(place.shape)
