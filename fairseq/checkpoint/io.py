"""Read and write checkpoint files: written atomically, verified before reading, never unpickled freely.

A file is torch's zip archive of tensors and plain containers. The archive has a CRC-32 of each record, which `verify`
and `load` check.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from fairseq.checkpoint import kinds, legacy
from fairseq.checkpoint.allowed import Refused
from fairseq.checkpoint.legacy import is_zip
from fairseq.checkpoint.upgrade import upgrade
from fairseq.utils import PICKLE_PROTOCOL

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp"  # the ending of unfinished checkpoints

# errors from reading a damaged archive: a flipped bit can also request a password or an unknown compression
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; an older file of the same name is intact."""


def save(obj: Any, path: str | os.PathLike) -> str:
    """Write a checkpoint atomically (temporary file, fsync, rename), and return its path.

    Raises:
        CheckpointWriteError: the file cannot be written, for example on a full disk; the temporary file is removed, and
            an older file of this name is kept.
    """
    return _write(path, lambda file: torch.save(obj, cast(IO[bytes], file), pickle_protocol=PICKLE_PROTOCOL))


def copy(source: str | os.PathLike, path: str | os.PathLike) -> str:
    """Copy a checkpoint to a second name atomically. Not a link, so that damage to one leaves the other intact."""

    def transfer(file: _Disk) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, length=1 << 22)

    return _write(path, transfer)


class _Disk:
    """A file that keeps its first write error, because torch's zip writer replaces it with a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.refusal = self.refusal or error
            raise


def _write(path: str | os.PathLike, write: Callable[[_Disk], None]) -> str:
    path = os.fspath(path)
    # a random name: another process, perhaps on another machine, may be writing the same checkpoint
    temporary = f"{path}.{secrets.token_hex(4)}{TEMPORARY}"
    disk: _Disk | None = None
    try:
        with open(temporary, "xb") as file:
            disk = _Disk(file)
            write(disk)
            disk.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        _remove(temporary)
        raise _refused(path, error) from error
    except BaseException as error:
        _remove(temporary)
        if disk is not None and disk.refusal is not None and isinstance(error, Exception):
            raise _refused(path, disk.refusal) from error
        raise
    return path


def _refused(path: str, error: OSError) -> CheckpointWriteError:
    return CheckpointWriteError(error.errno, f"cannot write {path}: {error.strerror or error}")


def _put_in_place(temporary: str, path: str) -> None:
    """Rename a finished file. A symbolic link of that name is replaced: its target may be another checkpoint."""
    link = os.readlink(path) if os.path.islink(path) else None
    os.replace(temporary, path)
    if link is not None:
        logger.warning(f"{path} was a symbolic link to {link}; it is now a regular file, and the target is unchanged")


def _sync_folder(folder: str) -> None:
    """Make the rename survive a power failure, where the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        logger.debug(f"cannot sync the folder {folder}: {error}")
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning(f"cannot remove the unfinished file {path}: {error}")


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Remove unfinished checkpoints of a killed process. Call it only in the process that writes to the folder."""
    for unfinished in Path(folder).glob(f"checkpoint*.pt*{TEMPORARY}"):
        logger.info(f"removing the unfinished checkpoint {unfinished}")
        _remove(os.fspath(unfinished))


def verify(path: str | os.PathLike) -> str | None:
    """Read a whole file and check its CRC-32s; returns None if it is intact, else what is wrong with it."""
    try:
        problem = kinds.problem(path)
        if problem is not None:
            return f"it {problem}"
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


def read(path: str | os.PathLike, with_tensors: bool = True) -> Any:
    """Read the object in a file that `torch.save` wrote, without running anything in it (see `legacy`).

    Raises:
        ValueError: the file is damaged, of another kind (see `kinds`), or contains something other than data; the
            message names it.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    kinds.refuse_other_kinds(path)
    try:
        return legacy.read(path, with_tensors)
    except Refused as error:
        raise ValueError(
            f"{path} was not loaded: it holds {error}. A checkpoint may hold only data; anything else could run code."
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"The checkpoint {path} is damaged: {error}.") from error
    except _DAMAGE as error:
        reason = str(error).strip().splitlines()[:1] or [""]
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason[0]}).") from error


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint of any fairseq version, upgraded to the current format (see `upgrade`); tensors on the CPU.

    Raises:
        ValueError: as `read`, or the file is not a checkpoint.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    state = _dict(path, with_tensors=True)
    if not isinstance(state.get("model"), dict):
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


def _dict(path: str | os.PathLike, with_tensors: bool) -> dict[str, Any]:
    state = read(path, with_tensors)
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


def newest_good(
    save_dir: str | os.PathLike, first: str | os.PathLike | None, suffix: str = ""
) -> tuple[str | None, list[tuple[str, str]]]:
    """Find the checkpoint to resume from: `first` if it is intact, else the intact one with the most updates.

    Args:
        save_dir: folder of the other checkpoints.
        first: the last checkpoint; if it is None or missing, the others are considered.
        suffix: `checkpoint.checkpoint_suffix` of the files to consider.
    Returns:
        its path or None, and (path, reason) of every damaged file found.
    """
    bad: list[tuple[str, str]] = []
    if first is not None and os.path.exists(first):
        reason = verify(first)
        if reason is None:
            return os.fspath(first), bad
        bad.append((os.fspath(first), reason))
    best: tuple[int, float, str] | None = None
    for candidate in sorted(Path(save_dir).glob(f"checkpoint*{suffix}.pt")):
        path = os.fspath(candidate)
        if first is not None and os.path.exists(first) and os.path.samefile(path, first):
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
