"""Sharded checkpoints: a folder that all processes of a run write together, each its own parts of the tensors.

The folder is named like a file, with `.shards` instead of `.pt`. It holds:

- `__R_N.distcp` and `.metadata`: the tensors, as torch.distributed.checkpoint writes them;
- `record.pt`: everything else, as plain containers, and where each tensor belongs in them;
- `checksums.json`: size and CRC-32 of every file. It is written last.

Reading runs nothing: `shard_index` reads the metadata, `legacy` everything else.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fairseq.checkpoint import atomic, legacy, shard_index
from fairseq.checkpoint.allowed import Refused
from fairseq.checkpoint.retention import FOLDER
from fairseq.checkpoint.shard_index import Stored
from fairseq.checkpoint.writing import ToHost, on_host
from fairseq.utils import PICKLE_PROTOCOL

if TYPE_CHECKING:
    from torch.distributed.checkpoint.planner import WriteItem

T = TypeVar("T")
RECORD, CHECKSUMS = "record.pt", "checksums.json"
VERSION = 1
_PIECE = 1 << 22  # bytes that are read at once


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a sharded checkpoint, complete or not."""
    path = os.fspath(path)
    return os.path.isdir(path) and (path.endswith(FOLDER) or os.path.exists(os.path.join(path, CHECKSUMS)))


# -- what this process writes ------------------------------------------------------------------------------------------


class Part:
    """This process's part of a sharded tensor, on the CPU, as torch.distributed.checkpoint asks for it."""

    def __init__(self, local: Tensor, items: list[WriteItem]) -> None:
        self.local = local
        self._items = items

    def __create_write_items__(self, key: str, part: Part) -> list[WriteItem]:
        return self._items


class Local(NamedTuple):
    """A state as this process writes it."""

    record: dict[str, Any]  # without tensors
    tensors: dict[str, Tensor | Part]  # by key


def local(state: dict[str, Any], is_first: bool, to_host: ToHost = on_host) -> Local:
    """Split a state into this process's parts of tensors, copied to the CPU, and the rest.

    Args:
        state: nested dicts, lists and tuples; its tensors are DTensors, or whole and the same on all processes.
        is_first: this is the process that writes the whole tensors.
        to_host: copies tensors in nested containers to the CPU.
    """
    places: dict[str, list[Any]] = {}
    live: dict[str, Tensor] = {}

    def without_tensors(value: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(value, Tensor):
            key = "/".join(map(str, place))
            assert key not in places, f"two tensors are named {key}"
            places[key], live[key] = list(place), value
            return None
        if isinstance(value, dict):
            return type(value)((name, without_tensors(item, (*place, name))) for name, item in value.items())
        if isinstance(value, (list, tuple)):
            before = len(places)
            items = [without_tensors(item, (*place, number)) for number, item in enumerate(value)]
            # a tuple with tensors becomes a list, into which they can be put back
            return tuple(items) if isinstance(value, tuple) and len(places) == before else items
        return value

    record = {"version": VERSION, "state": without_tensors(state, ()), "tensors": places}
    items = {key: _write_items(key, tensor) for key, tensor in live.items() if _is_sharded(tensor)}
    mine = {
        key: tensor.detach().to_local() if key in items else tensor  # type: ignore[operator]
        for key, tensor in live.items()
        if key in items or is_first
    }
    copies = to_host(mine)
    # with fewer rows than processes, some have no part
    parts = {key: Part(copies[key], items[key]) if key in items else copies[key] for key in mine}
    return Local(record, {key: part for key, part in parts.items() if key not in items or part.local.numel()})


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def _write_items(key: str, tensor: Any) -> list[WriteItem]:
    return tensor.__create_write_items__(key, tensor)


# -- writing -----------------------------------------------------------------------------------------------------------


def save(state: dict[str, Any], path: str, group: dist.ProcessGroup | None = None) -> str:
    """Write a sharded checkpoint, and return its path (collective); see `local` and `write`."""
    return write(local(state, _rank(group) == 0), path, group)


def write(mine: Local, path: str, group: dist.ProcessGroup | None = None) -> str:
    """Write a sharded checkpoint together with the other processes of a group, and return its path (collective).

    Rank 0 puts the folder in place when all processes have finished; an older one of this name is replaced.

    Args:
        mine: this process's part.
        path: the folder, the same on all processes, which must all see it.
        group: a gloo group that no other thread uses; None: the default group.
    Raises:
        CheckpointWriteError: a process cannot write, for example on a full disk; an older folder of this name is kept.
            All processes raise it.
    """
    rank = _rank(group)
    temporary = _together(path, group, lambda: _create(atomic.temporary_name(path)) if rank == 0 else "")[0]
    try:
        _write_tensors(mine.tensors, temporary, path, group)
        checksums = _together(path, group, lambda: _checksums(temporary, f"__{rank}_"))
        _together(path, group, lambda: _complete(mine.record, checksums, temporary, path) if rank == 0 else None)
    except BaseException:
        if rank == 0:
            atomic.remove(temporary)
        raise
    return path


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if dist.is_initialized() else 0


def _together(path: str, group: dist.ProcessGroup | None, work: Callable[[], T]) -> list[T]:
    """Run `work` on every process, and return all results by rank.

    Raises:
        CheckpointWriteError: it raised OSError on one of them.
        Exception: it raised another error.
    """
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    if not dist.is_initialized():
        outcomes: list[Any] = [(result, error)]
    else:
        outcomes = [None] * dist.get_world_size(group)
        dist.all_gather_object(outcomes, (result, error), group=group)
    _raise_first(path, [error for _, error in outcomes])
    return [result for result, _ in outcomes]


def _raise_first(path: str, errors: Sequence[BaseException | None]) -> None:
    """Raise the first error, if there is one."""
    for rank, error in enumerate(errors):
        if isinstance(error, OSError):
            raise atomic.refused(path, error) from error
        if error is not None:
            raise RuntimeError(f"rank {rank} cannot write {path}: {error}") from error


def _create(folder: str) -> str:
    os.makedirs(folder)
    return folder


def _write_tensors(tensors: dict[str, Tensor | Part], folder: str, path: str, group: dist.ProcessGroup | None) -> None:
    """Write this process's tensors, and on rank 0 the metadata (collective).

    Raises:
        CheckpointWriteError: one of the processes cannot write.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import MetadataIndex

    class Planner(dcp.DefaultSavePlanner):
        def lookup_object(self, index: MetadataIndex) -> Any:
            found = self.state_dict[index.fqn]
            return found.local if isinstance(found, Part) else found

    class Writer(dcp.FileSystemWriter):
        def storage_meta(self) -> None:  # it would name the temporary folder
            return None

    planner = Planner(flatten_state_dict=False, flatten_sharded_tensors=False)
    alone = not dist.is_initialized()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a single process saves alone
            dcp.save(tensors, storage_writer=Writer(folder), planner=planner, process_group=group, no_dist=alone)
    except CheckpointException as error:
        causes: dict[int, BaseException] = {}
        for rank, (cause, _) in error.failures.items():
            # torch's zip writer replaces the system's error with a RuntimeError
            is_disk = isinstance(cause, RuntimeError)
            causes[rank] = OSError(errno.EIO, str(cause).splitlines()[0]) if is_disk else cause
        _raise_first(path, [causes.get(rank) for rank in range(max(causes) + 1)])


def _checksums(folder: str, beginning: str) -> dict[str, list[int]]:
    """Return size and CRC-32 of the files whose names begin so."""
    names = sorted(name for name in os.listdir(folder) if name.startswith(beginning))
    return {name: list(_checksum(os.path.join(folder, name))) for name in names}


def _checksum(path: str) -> tuple[int, int]:
    size = crc = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


def _complete(record: dict[str, Any], checksums: list[dict[str, list[int]]], folder: str, path: str) -> None:
    """Write the record and the checksums, and put the folder in place.

    Raises:
        FileNotFoundError: another process has written to another folder of this name, on its own machine.
    """
    written = [name for part in checksums for name in part]
    missing = [name for name in written if not os.path.exists(os.path.join(folder, name))]
    if missing:
        what = f"another process wrote {missing[0]}, but not where rank 0 writes; all must see the same folder"
        raise FileNotFoundError(errno.ENOENT, what)
    with open(os.path.join(folder, RECORD), "xb") as file:
        torch.save(record, file, pickle_protocol=PICKLE_PROTOCOL)
    own = {**_checksums(folder, RECORD), **_checksums(folder, shard_index.METADATA)}
    files = dict(sorted(entry for part in (*checksums, own) for entry in part.items()))
    with open(os.path.join(folder, CHECKSUMS), "x", encoding="utf-8") as file:
        json.dump(files, file, indent=1)
    atomic.put_folder_in_place(folder, path)


# -- reading -----------------------------------------------------------------------------------------------------------


class Later(NamedTuple):
    """A tensor that is not read yet."""

    stored: Stored
    folder: str

    def read(self) -> Tensor:
        """Read the whole tensor; errors as for `load`."""
        return self.stored.read(self.folder)

    def shape(self) -> Tensor:
        """Return a tensor of the same shape and dtype without content, on the meta device."""
        return torch.empty(self.stored.size, dtype=self.stored.dtype, device="meta")


class OnDemand(Mapping[Any, Any]):
    """A dict of a sharded checkpoint whose tensors are read each time they are asked for, whole."""

    def __init__(self, entries: dict[Any, Any]) -> None:
        self._entries = entries

    def __getitem__(self, name: object) -> Any:
        value = self._entries[name]
        return value.read() if isinstance(value, Later) else value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def load(path: str | os.PathLike, with_tensors: bool = True, on_demand: bool = False) -> dict[str, Any]:
    """Read the whole state from a sharded checkpoint; `checkpoint.io.load` is the way for commands.

    Args:
        with_tensors: if false, tensors have only shapes (on the meta device), and their bytes are not read.
        on_demand: every dict that holds tensors is an `OnDemand` instead.
    Raises:
        Refused: the folder contains something other than data; the message names it.
        zipfile.BadZipFile, OSError, ValueError: the folder is damaged or incomplete.
    """
    return _filled(unread(path), with_tensors, on_demand)


def unread(path: str | os.PathLike) -> dict[str, Any]:
    """Read a state with a `Later` in the place of each tensor; errors as for `load`."""
    path = os.fspath(path)
    checksums = _read_checksums(path)
    for name in (RECORD, shard_index.METADATA):
        _check(path, name, checksums)
    record, stored = legacy.read(os.path.join(path, RECORD)), shard_index.read(path)
    unlisted = {chunk.file for tensor in stored.values() for chunk in tensor.chunks} - checksums.keys()
    if unlisted:
        raise zipfile.BadZipFile(f"{min(unlisted)} has no checksum")
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise Refused(f"a {RECORD} of another version")
    state, places = record.get("state"), record.get("tensors")
    if not isinstance(state, dict) or not isinstance(places, dict) or places.keys() != stored.keys():
        raise zipfile.BadZipFile(f"its {RECORD} does not belong to its tensors")
    for key, place in places.items():
        _put(state, place, Later(stored[key], path))
    return state


def _put(state: Any, place: object, value: Later) -> None:
    if not isinstance(place, list) or not place:
        raise Refused(f"a {RECORD} with a place that is not a list")
    for name in place[:-1]:
        state = state[name]
    if not isinstance(state, (dict, list)) or state[place[-1]] is not None:
        raise Refused(f"a {RECORD} with a tensor in the place of something else")
    state[place[-1]] = value


def _filled(value: Any, with_tensors: bool, on_demand: bool) -> Any:
    if isinstance(value, Later):
        return value.read() if with_tensors else value.shape()
    if isinstance(value, dict):
        lazy = on_demand and any(isinstance(item, Later) for item in value.values())
        entries = type(value)(
            (name, item if lazy and isinstance(item, Later) else _filled(item, with_tensors, on_demand))
            for name, item in value.items()
        )
        return OnDemand(entries) if lazy else entries
    if isinstance(value, list):
        return [_filled(item, with_tensors, on_demand) for item in value]
    return value


def verify(path: str | os.PathLike) -> None:
    """Read a whole folder and check its checksums.

    Raises:
        Refused, zipfile.BadZipFile, OSError, ValueError: as `load`.
    """
    path = os.fspath(path)
    checksums = _read_checksums(path)
    for name in checksums:
        _check(path, name, checksums)
    load(path, with_tensors=False)


def _read_checksums(path: str) -> dict[str, list[int]]:
    try:
        with open(os.path.join(path, CHECKSUMS), encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        raise zipfile.BadZipFile(f"its {CHECKSUMS} is missing") from None
    except ValueError as error:
        raise zipfile.BadZipFile(f"its {CHECKSUMS} is damaged") from error
    known = (RECORD, shard_index.METADATA)
    if not isinstance(found, dict) or not all(
        name in known or shard_index.TENSOR_FILE.fullmatch(name) for name in found
    ):
        raise Refused(f"a {CHECKSUMS} with other files")
    missing = [name for name in (*known, *found) if name not in found or not os.path.isfile(os.path.join(path, name))]
    if missing:
        raise zipfile.BadZipFile(f"its file {missing[0]} is missing")
    return found


def _check(path: str, name: str, checksums: dict[str, list[int]]) -> None:
    if list(_checksum(os.path.join(path, name))) != checksums[name]:
        raise zipfile.BadZipFile(f"the checksum of its file {name} is wrong")
