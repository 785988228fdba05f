"""Where the tensors of a sharded checkpoint are: the metadata of torch.distributed.checkpoint, read without running it.

torch unpickles that file freely. Here it goes through the restricted reader, and only tensors in this folder's own
files are accepted: an entry of bytes would be unpickled by torch, too.
"""

from __future__ import annotations

import math
import os
import re
from io import RawIOBase
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fairseq.checkpoint import legacy
from fairseq.checkpoint.allowed import ALLOWED_IN_METADATA, STORAGE_TYPES, Global, Inert, Refused
from fairseq.checkpoint.unpickle import unpickle

METADATA = ".metadata"
TENSOR_FILE = re.compile(r"__\d+_\d+\.distcp")
_DTYPES = {str(dtype): dtype for dtype in STORAGE_TYPES.values()}


class Chunk(NamedTuple):
    """A part of a tensor, and the torch archive in a file that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    begin: int  # bytes
    length: int


class Stored(NamedTuple):
    """A tensor in a folder."""

    dtype: torch.dtype
    size: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    def read(self, folder: str) -> Tensor:
        """Read the whole tensor; checks the CRC-32s of its archives.

        Raises:
            Refused, zipfile.BadZipFile, OSError: a part is damaged, or is not what the metadata says.
        """
        whole = torch.zeros(self.size, dtype=self.dtype)
        for chunk in self.chunks:
            with open(os.path.join(folder, chunk.file), "rb") as file:
                part = legacy.read_zip(_Part(file, chunk.begin, chunk.length))
            if not isinstance(part, Tensor) or part.dtype != self.dtype or tuple(part.shape) != chunk.sizes:
                raise Refused(f"a part in {chunk.file} that is not the tensor in the metadata")
            places = tuple(slice(begin, begin + size) for begin, size in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[places] = part
        return whole


class _Part(RawIOBase):
    """A part of a file, read like a file of its own."""

    def __init__(self, file: BinaryIO, begin: int, length: int) -> None:
        self._file, self._begin, self._length, self._at = file, begin, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise OSError("a position before the file's beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._length - self._at)]
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return count


def read(folder: str) -> dict[str, Stored]:
    """Read where the tensors of a folder are, by key.

    Raises:
        Refused: the metadata holds something other than tensors in this folder.
        OSError: it cannot be read.
    """
    with open(os.path.join(folder, METADATA), "rb") as file:
        root = unpickle(file, table=ALLOWED_IN_METADATA)
    entries, places = _field(root, "state_dict_metadata"), _field(root, "storage_data")
    if not isinstance(entries, dict) or not isinstance(places, dict):
        raise Refused("metadata without tensors")
    for key, value in entries.items():
        if not isinstance(value, Inert) or not value.name.endswith(".TensorStorageMetadata"):
            raise Refused(f"an entry {_text(key)[:80]!r} that is not a tensor")
    where = {_index(key): _place(value, folder) for key, value in places.items()}
    return {_text(key): _stored(key, value, where) for key, value in entries.items()}


def _field(value: object, name: str) -> Any:
    if not isinstance(value, Inert) or not isinstance(value.state, dict) or name not in value.state:
        raise Refused(f"metadata without {name}")
    return value.state[name]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Refused("metadata with a name that is not a string")
    return value


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or any(type(number) is not int or number < 0 for number in value):
        raise Refused("metadata with sizes that are not numbers")
    return value


def _index(key: object) -> tuple[str, tuple[int, ...]]:
    return _text(_field(key, "fqn")), _numbers(_field(key, "offset"))


def _place(value: Any, folder: str) -> tuple[str, int, int]:
    """Return a file's name, and the first byte and the length of a part of it."""
    file, numbers = _text(_field(value, "relative_path")), (_field(value, "offset"), _field(value, "length"))
    if not TENSOR_FILE.fullmatch(file):
        raise Refused(f"metadata that names the file {file[:80]!r}")
    if value.state.get("transform_descriptors"):
        raise Refused("metadata with transformed files")
    begin, length = _numbers(numbers)
    if begin + length > os.path.getsize(os.path.join(folder, file)):
        raise Refused(f"metadata that reaches beyond the end of {file}")
    return file, begin, length


def _stored(key: str, value: object, where: dict[tuple[str, tuple[int, ...]], tuple[str, int, int]]) -> Stored:
    properties, size = _field(value, "properties"), _numbers(_field(value, "size"))
    state = properties.state if isinstance(properties, Inert) else None
    dtype = _DTYPES.get(state[0].name) if isinstance(state, tuple) and state and isinstance(state[0], Global) else None
    chunks = _field(value, "chunks")
    if dtype is None or not isinstance(chunks, list):
        raise Refused(f"a tensor {key[:80]!r} without a type or parts")
    found = []
    for chunk in chunks:
        offsets, sizes = _numbers(_field(chunk, "offsets")), _numbers(_field(chunk, "sizes"))
        place = where.get((key, offsets))
        inside = len(offsets) == len(sizes) == len(size) and all(
            begin + count <= all_ for begin, count, all_ in zip(offsets, sizes, size, strict=True)
        )
        if place is None or not inside or math.prod(sizes) * dtype.itemsize > place[2]:
            raise Refused(f"a tensor {key[:80]!r} whose parts do not fit")
        found.append(Chunk(offsets, sizes, *place))
    if sum(math.prod(chunk.sizes) for chunk in found) != math.prod(size):
        raise Refused(f"a tensor {key[:80]!r} with missing parts")
    return Stored(dtype, size, tuple(found))
