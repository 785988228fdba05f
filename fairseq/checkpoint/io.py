"""Read and write checkpoints: written atomically, verified before reading, never unpickled freely.

A checkpoint is a file, torch's zip archive of tensors and plain containers, or a folder (see `sharded`). Both have
CRC-32s, which `verify` and `load` check. Every command opens checkpoints through this module.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from fairseq.checkpoint import atomic, consolidating, fetching, kinds, legacy, sharded
from fairseq.checkpoint.allowed import Refused
from fairseq.checkpoint.atomic import CheckpointWriteError
from fairseq.checkpoint.legacy import is_zip
from fairseq.checkpoint.retention import FILE, FOLDER
from fairseq.checkpoint.upgrade import upgrade
from fairseq.utils import PICKLE_PROTOCOL

__all__ = [
    "CheckpointWriteError",
    "consolidate",
    "copy",
    "forms",
    "load",
    "newest_good",
    "peek",
    "read",
    "remove_temporaries",
    "save",
    "verify",
]

T = TypeVar("T")
logger = logging.getLogger(__name__)

# errors from reading a damaged archive: a flipped bit can also request a password or an unknown compression
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError)


def save(obj: Any, path: str | os.PathLike) -> str:
    """Write a checkpoint file atomically, and return its path.

    Raises:
        CheckpointWriteError: as `atomic.write`.
    """
    return atomic.write(path, lambda file: torch.save(obj, cast(IO[bytes], file), pickle_protocol=PICKLE_PROTOCOL))


def copy(source: str | os.PathLike, path: str | os.PathLike) -> str:
    """Copy a checkpoint, file or folder, to a second name atomically.

    Not a link, so that damage to one leaves the other intact.
    """
    source = fetching.local(source)
    if os.path.isdir(source):
        with atomic.new_folder(os.fspath(path)) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        return os.fspath(path)

    def transfer(file: atomic.Disk) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, length=1 << 22)

    return atomic.write(path, transfer)


def consolidate(folder: str | os.PathLike, path: str | os.PathLike) -> str:
    """Write a sharded checkpoint as one file, with one whole tensor in memory at a time, and return its path.

    Raises:
        ValueError: `folder` is not a sharded checkpoint, or is damaged.
        CheckpointWriteError: as `save`.
    """
    try:
        source = fetching.local(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{error} Name the folder of a sharded checkpoint.") from error
    if not os.path.exists(source):
        raise ValueError(f"{os.fspath(folder)} does not exist. Name the folder of a sharded checkpoint.")
    if not sharded.is_folder(source):
        raise ValueError(f"{os.fspath(folder)} is not the folder of a sharded checkpoint.")
    return _reading(os.fspath(folder), lambda: atomic.write(path, lambda file: consolidating.write(source, file)))


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Remove unfinished checkpoints of a killed process, and put in place a folder that was only to be renamed.

    Call it only in the process that writes to the folder.
    """
    atomic.recover(folder, "checkpoint*", lambda path: sharded.is_folder(path) and verify(path) is None)


def verify(path: str | os.PathLike) -> str | None:
    """Read a whole file and check its CRC-32s; returns None if it is intact, else what is wrong with it."""
    try:
        path = fetching.local(path)
        problem = kinds.problem(path)
        if problem is not None:
            return f"it {problem}"
        if sharded.is_folder(path):
            sharded.verify(path)
            return None
        if not is_zip(path):  # streams of torch before 1.6 have lengths but no checksums
            legacy.read(path)
            return None
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"the checksum of its record {damaged} is wrong"
        # `testzip` trusts the archive's list of records; this checks that it has every tensor's record
        legacy.read(path, with_tensors=False)
        return None
    except (zipfile.BadZipFile, EOFError) as error:
        return f"it is truncated or damaged ({error})"
    except Refused as error:
        return f"it holds {error}"
    except _DAMAGE as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def read(path: str | os.PathLike, with_tensors: bool = True, on_demand: bool = False) -> Any:
    """Read the object in a file of `torch.save`, or the state in a sharded checkpoint, without running anything.

    Args:
        with_tensors: if false, tensors have only shapes.
        on_demand: read the tensors of a sharded checkpoint when they are asked for; see `sharded.OnDemand`.
    Raises:
        ValueError: the file is damaged, of another kind (see `kinds`), or contains something other than data; the
            message names it.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    kinds.refuse_other_kinds(path)
    here = fetching.local(path)
    if sharded.is_folder(here):
        return _reading(path, lambda: sharded.load(here, with_tensors, on_demand))
    return _reading(path, lambda: legacy.read(here, with_tensors))


def _reading(path: str, work: Callable[[], T]) -> T:
    """Run a function that reads a checkpoint; its errors become those of `read`."""
    try:
        return work()
    except CheckpointWriteError:
        raise
    except Refused as error:
        raise ValueError(
            f"{path} was not loaded: it holds {error}. A checkpoint may hold only data; anything else could run code."
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"The checkpoint {path} is damaged: {error}.") from error
    except _DAMAGE as error:
        reason = str(error).strip().splitlines()[:1] or [""]
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason[0]}).") from error


def load(path: str | os.PathLike, on_demand: bool = False) -> dict[str, Any]:
    """Read a checkpoint of any fairseq version, upgraded to the current format (see `upgrade`); tensors on the CPU.

    Args:
        on_demand: as for `read`.
    Raises:
        ValueError: as `read`, or the file is not a checkpoint.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    state = _dict(path, with_tensors=True, on_demand=on_demand)
    if not isinstance(state.get("model"), Mapping):
        raise ValueError(_without_model(state, path))
    try:
        return upgrade(state, path)
    except (AttributeError, TypeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path} is not a checkpoint: its entries are not what fairseq writes ({error}).") from error


def _without_model(state: dict[str, Any], path: str) -> str:
    weights = sum(isinstance(value, Tensor) for value in state.values())
    if weights and weights == len(state):
        return (
            f"{path} holds only weights ({weights} tensors), without the config that the model is built from. Use the "
            "whole checkpoint that fairseq saved, with its entries 'cfg' and 'model'."
        )
    names = [str(name)[:40] for name in state]
    entries = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{path} is not a checkpoint: it has no entry 'model', only {entries or 'nothing'}."


def _dict(path: str | os.PathLike, with_tensors: bool, on_demand: bool = False) -> dict[str, Any]:
    state = read(path, with_tensors, on_demand)
    if not isinstance(state, dict):
        raise ValueError(f"{os.fspath(path)} is not a checkpoint: it holds a {type(state).__name__}, not a dict.")
    odd = _odd_entry(state)
    if odd is not None:
        raise ValueError(f"{os.fspath(path)} is not a checkpoint: its entry {odd} is not what fairseq writes.")
    return state


def _odd_entry(state: dict[str, Any]) -> str | None:
    """Return the name of an entry that does not have the type that readers expect; None if all do."""
    for name in ("extra_state", "task_state"):
        if not isinstance(state.get(name) or {}, dict):
            return name
    history = state.get("optimizer_history") or []
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        return "optimizer_history"
    if not all(type(entry.get("num_updates", 0)) is int for entry in history):
        return "optimizer_history.num_updates"
    record = (state.get("extra_state") or {}).get("run_record") or {}
    if not isinstance(record, dict) or not isinstance(record.get("files", []), list):
        return "extra_state.run_record"
    return None


class Peek(NamedTuple):
    """The parts of a checkpoint that `peek` reads."""

    num_updates: int
    extra_state: dict[str, Any]
    cfg: Any = None


def peek(path: str | os.PathLike) -> Peek:
    """Read the updates, extra_state and config of a checkpoint, without its tensors.

    Raises:
        ValueError: as `load`.
    """
    state = _dict(path, with_tensors=False)
    history = state.get("optimizer_history") or [{}]
    return Peek(history[-1].get("num_updates", 0), state.get("extra_state") or {}, state.get("cfg"))


def forms(path: str | os.PathLike) -> list[str]:
    """List the checkpoints of this name that exist: the file, and the folder of a sharded checkpoint."""
    name = os.fspath(path).removesuffix(FILE).removesuffix(FOLDER)
    return [form for form in (f"{name}{FILE}", f"{name}{FOLDER}") if os.path.exists(form)]


def newest_good(
    save_dir: str | os.PathLike, first: str | os.PathLike | None, suffix: str = ""
) -> tuple[str | None, list[tuple[str, str]]]:
    """Find the checkpoint to resume from: `first` if it is intact, else the intact one with the most updates.

    Args:
        save_dir: folder of the other checkpoints.
        first: the last checkpoint, as a file or a folder; if both exist, the one with more updates takes precedence. If
            it is None or missing, the others are considered.
        suffix: `checkpoint.checkpoint_suffix` of the files to consider.
    Returns:
        its path or None, and (path, reason) of every damaged file found.
    """
    bad: list[tuple[str, str]] = []
    last = [] if first is None else forms(first)
    for path in sorted(last, key=_updates, reverse=True) if len(last) > 1 else last:
        reason = verify(path)
        if reason is None:
            return path, bad
        bad.append((path, reason))
    best: tuple[int, float, str] | None = None
    for ending in (FILE, FOLDER):
        for candidate in sorted(Path(save_dir).glob(f"checkpoint*{suffix}{ending}")):
            path = os.fspath(candidate)
            if any(os.path.samefile(path, known) for known in last):
                continue
            reason = verify(path)
            if reason is not None:
                bad.append((path, reason))
                continue
            try:
                updates = peek(path).num_updates
            except ValueError as error:
                bad.append((path, str(error)))
                continue
            rank = (updates, os.path.getmtime(path), path)
            best = rank if best is None else max(best, rank)
    return (None if best is None else best[2]), bad


def _updates(path: str) -> tuple[int, str]:
    """Return the order of two forms of one checkpoint: its updates, -1 if it is damaged; folders last."""
    try:
        return peek(path).num_updates, path
    except (ValueError, OSError):
        return -1, path
