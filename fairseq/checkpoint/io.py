"""Checkpoint files: written whole or not at all, checked before they are read, never unpickled freely.

A file is torch's zip archive of tensors and plain containers; the archive carries a CRC-32 of each record, which
`verify` and `load` check.
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

TEMPORARY = ".tmp"  # a file of this ending is a checkpoint that was never finished

# what reading a damaged archive can raise: a flipped bit may also ask for a password or an unknown compression
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; what lay under its name before is unharmed."""


def save(obj: Any, path: str | os.PathLike) -> str:
    """Write a checkpoint: to a temporary name, then to the disk itself, then under its own name. Returns the path.

    Raises:
        CheckpointWriteError: the disk is full or refuses; the temporary file is removed, an older file of this name
            stays.
    """
    return _write(path, lambda file: torch.save(obj, cast(IO[bytes], file), pickle_protocol=PICKLE_PROTOCOL))


def copy(source: str | os.PathLike, path: str | os.PathLike) -> str:
    """The same for a second name of a checkpoint. A copy, not a link: damage to one must not reach the other."""

    def transfer(file: _Disk) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, length=1 << 22)

    return _write(path, transfer)


class _Disk:
    """A file open for writing that remembers why the disk refused: torch's zip writer replaces that error by a
    RuntimeError.
    """

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
    # a name of its own: another process may be writing the same checkpoint, on another machine too
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
    """Give a finished file its name. A link of that name goes: its target may be another run's checkpoint, or an
    older one of this.
    """
    link = os.readlink(path) if os.path.islink(path) else None
    os.replace(temporary, path)
    if link is not None:
        logger.warning(
            f"{path} was a symbolic link to {link}; it is a file of its own now, and the target is unchanged"
        )


def _sync_folder(folder: str) -> None:
    """Make the rename itself survive a power cut; not every file system offers that."""
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
    """Remove unfinished checkpoints that a killed process left behind; only the process that writes there may call
    this.
    """
    for unfinished in Path(folder).glob(f"checkpoint*.pt*{TEMPORARY}"):
        logger.info(f"removing the unfinished checkpoint {unfinished}")
        _remove(os.fspath(unfinished))


def verify(path: str | os.PathLike) -> str | None:
    """None for a sound checkpoint, else what is wrong with it. Reads the whole file, at the speed of CRC-32."""
    try:
        problem = kinds.problem(path)
        if problem is not None:
            return f"it {problem}"
        if not is_zip(path):  # a stream of torch before 1.6 has no checksums, but lengths
            legacy.read(path)
            return None
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"the checksum of its record {damaged} is wrong"
        # `testzip` takes the archive's list as it is: here every tensor's record must be in it
        legacy.read(path, with_tensors=False)
        return None
    except (zipfile.BadZipFile, EOFError) as error:
        return f"it is cut off or damaged ({error})"
    except Refused as error:
        return f"it holds {error}"
    except _DAMAGE as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def read(path: str | os.PathLike, with_tensors: bool = True) -> Any:
    """What a file of torch holds, through the restricted reader (see `legacy`): nothing in it runs.

    Raises:
        ValueError: the file is damaged, of another kind (see `kinds`), or holds something else than data; the message
            names it.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    kinds.refuse_other_kinds(path)
    try:
        return legacy.read(path, with_tensors)
    except Refused as error:
        raise ValueError(
            f"{path} is not opened: it holds {error}. A checkpoint is data, and what else lies in a file might run."
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"The checkpoint {path} is damaged: {error}.") from error
    except _DAMAGE as error:
        reason = str(error).strip().splitlines()[:1] or [""]
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason[0]}).") from error


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint, whoever wrote it, in the form that this version writes (see `upgrade`); tensors on the CPU.

    Raises:
        ValueError: as `read`, or the file is no checkpoint.
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
            f"{path} holds bare weights ({weights} tensors) without the config that the model is built from. Give "
            "the whole checkpoint that fairseq saved, with its entries 'cfg' and 'model'."
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
    """The name of an entry of another form than all readers rely on."""
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
    """What tells checkpoints apart, read without their tensors."""

    num_updates: int
    extra_state: dict[str, Any]


def peek(path: str | os.PathLike) -> Peek:
    """Updates and extra_state of a checkpoint; the tensors stay on the disk.

    Raises:
        ValueError: as `load`.
    """
    state = _dict(path, with_tensors=False)
    history = state.get("optimizer_history") or [{}]
    return Peek(history[-1].get("num_updates", 0), state.get("extra_state") or {})


def newest_good(
    save_dir: str | os.PathLike, first: str | os.PathLike | None, suffix: str = ""
) -> tuple[str | None, list[tuple[str, str]]]:
    """The checkpoint to continue from: `first` if it is sound, else the sound one in `save_dir` with most updates.

    Args:
        first: the last checkpoint; None or missing: choose among the others.
        suffix: `checkpoint.checkpoint_suffix` of the files to choose among.
    Returns:
        its path or None, and (path, reason) of every damaged one that was met.
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
