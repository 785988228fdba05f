"""Read checkpoint files safely: torch's zip archives, and the streams that torch wrote before 1.6.

Every checkpoint goes through this reader, including our own. It returns tensors on the CPU, plain containers,
`argparse.Namespace` and fairseq's `Dictionary`. No code in the file runs (see unpickle.py and allowed.py), and every
size that the file states is checked against its length.
"""

from __future__ import annotations

import os
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from io import BufferedReader
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq.checkpoint.allowed import STORAGE_TYPES, Global, Refused, Storage, plain
from fairseq.checkpoint.unpickle import unpickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


class _StorageId(NamedTuple):
    """A pickle's reference to a storage."""

    dtype: torch.dtype
    key: str
    numel: int


def is_zip(path: str | os.PathLike) -> bool:
    """Whether a file starts like a zip archive; files that torch wrote before 1.6 do not."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read(path: str | os.PathLike, with_tensors: bool = True) -> Any:
    """Read the object in a file that `torch.save` wrote.

    Args:
        with_tensors: if false, an archive's tensors have only shapes (on the meta device), and their bytes are not
            read.
    Raises:
        Refused: the file contains something other than data; the message names it.
        zipfile.BadZipFile, EOFError: the file is damaged or truncated.
    """
    try:
        if is_zip(path):
            return read_zip(path, with_tensors)
        if tarfile.is_tarfile(path):
            raise Refused("a tar archive, torch's format of 2016, which is older than wav2vec 2.0")
        with open(path, "rb") as file:
            return plain(_read_stream(file))
    except RecursionError as error:
        raise Refused("containers that are nested too deeply") from error


def read_zip(file: Any, with_tensors: bool = True) -> Any:
    """Read the object in a zip archive that `torch.save` wrote: a path, or an open file; errors as for `read`."""
    with zipfile.ZipFile(file) as archive:
        return plain(_read_zip(archive, with_tensors))


# -- storages ----------------------------------------------------------------------------------------------------------


def _storage_id(value: Any) -> _StorageId:
    if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] not in ("storage", b"storage"):
        raise Refused("a reference to something that is not a storage")
    kind, key, numel = value[1], value[2], value[4]
    dtype = STORAGE_TYPES.get(kind.name) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise Refused("a storage without a type or a size")
    if len(value) == 6 and value[5] is not None:
        raise Refused("a storage that is a view of another, which torch has not written since 2017")
    return _StorageId(dtype, key, numel)


def _storages(read_one: Callable[[_StorageId], Tensor]) -> Callable[[Any], Storage]:
    """Return a function from a pickle's reference to its storage; each storage is read once."""
    made: dict[str, tuple[_StorageId, Storage]] = {}

    def persistent(value: Any) -> Storage:
        wanted = _storage_id(value)
        if wanted.key not in made:
            made[wanted.key] = (wanted, Storage(read_one(wanted)))
        found, storage = made[wanted.key]
        if found != wanted:
            raise Refused(f"storage {wanted.key} with two types or sizes")
        return storage

    return persistent


# -- zip archives ------------------------------------------------------------------------------------------------------


def _read_zip(archive: zipfile.ZipFile, with_tensors: bool) -> Any:
    names = dict.fromkeys(archive.namelist())
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Refused(
            "an archive without one data.pkl"
            + (": it is TorchScript" if any("/code/" in name for name in names) else "")
        )
    folder = pickles[0].partition("/")[0]
    if f"{folder}/constants.pkl" in names:
        raise Refused("a TorchScript module, which is a program")
    if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != sys.byteorder.encode():
        raise Refused("numbers in the other byte order")

    def content(name: str) -> bytes:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a small file could expand in memory
            raise Refused(f"a compressed record {name}")
        return archive.read(info)  # checks the record's CRC-32

    def read_one(wanted: _StorageId) -> Tensor:
        name = f"{folder}/data/{wanted.key}"
        if name not in names:
            raise zipfile.BadZipFile(f"its record {name} is missing")
        if archive.getinfo(name).file_size != wanted.numel * wanted.dtype.itemsize:
            raise Refused(f"storage {wanted.key} with another size than stated")
        if not with_tensors:
            return torch.empty(wanted.numel, dtype=wanted.dtype, device="meta")
        data = bytearray(content(name))
        return torch.frombuffer(data, dtype=wanted.dtype) if data else torch.empty(0, dtype=wanted.dtype)

    return unpickle(content(pickles[0]), _storages(read_one))


# -- streams -----------------------------------------------------------------------------------------------------------


def _read_stream(file: BufferedReader) -> Any:
    """Read a stream of torch before 1.6.

    It has five pickles (magic number, protocol, byte order, object, storage keys), then each storage after its length.
    """
    length = os.fstat(file.fileno()).st_size
    _expect(unpickle(file), MAGIC_NUMBER, "a stream that torch did not write")
    _expect(unpickle(file), PROTOCOL_VERSION, "another version of torch's stream")
    system = unpickle(file)
    _expect(
        isinstance(system, dict) and system.get("little_endian"),
        sys.byteorder == "little",
        "numbers in the other byte order",
    )
    waiting: dict[str, Tensor] = {}
    wanted_bytes = 0

    def make_room(wanted: _StorageId) -> Tensor:
        nonlocal wanted_bytes
        wanted_bytes += wanted.numel * wanted.dtype.itemsize
        if wanted_bytes > length:
            raise EOFError(f"it is truncated: its tensors need {wanted_bytes} bytes, the file has {length}")
        waiting[wanted.key] = torch.empty(wanted.numel, dtype=wanted.dtype)
        return waiting[wanted.key]

    result = unpickle(file, _storages(make_room))
    keys = unpickle(file)
    if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(map(repr, waiting)):
        raise Refused("a list of storages that does not match its tensors")
    for key in keys:
        flat = waiting[key]
        header = file.read(8)
        if len(header) < 8:
            raise EOFError("it is truncated")
        _expect(struct.unpack("<q", header)[0], flat.numel(), f"storage {key} with another size than stated")
        target = flat.view(torch.uint8).numpy() if flat.numel() else None
        if target is not None and file.readinto(target.data) < target.nbytes:
            raise EOFError("it is truncated")
    return result


def _expect(found: Any, wanted: Any, problem: str) -> None:
    if found != wanted:
        raise Refused(problem)
