"""Checkpoint files: written whole or not at all, checked before they are read, never unpickled freely.

A file is torch's zip archive of tensors and plain containers; the archive carries a CRC-32 of each record, which `verify` and `load` check.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from fairseq import utils
from fairseq.checkpoint import legacy
from fairseq.checkpoint.allowed import Refused
from fairseq.checkpoint.legacy import is_zip
from fairseq.checkpoint.upgrade import upgrade

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp"  # a file of this ending is a checkpoint that was never finished

# what reading a damaged archive can raise: a flipped bit may also ask for a password or an unknown compression
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; what lay under its name before is unharmed."""


def save(obj: Any, path: str | os.PathLike) -> str:
    """Write a checkpoint: to a temporary name, then to the disk itself, then under its own name. Returns the path.

    Raises:
        CheckpointWriteError: the disk is full or refuses; the temporary file is removed, an older file of this name stays.
    """
    return _write(path, lambda file: torch.save(obj, file, pickle_protocol=utils.PICKLE_PROTOCOL))


def copy(source: str | os.PathLike, path: str | os.PathLike) -> str:
    """The same for a second name of a checkpoint. A copy, not a link: damage to one must not reach the other."""

    def transfer(file: BinaryIO) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, length=1 << 22)

    return _write(path, transfer)


def _write(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> str:
    path = os.fspath(path)
    temporary = path + TEMPORARY
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        _remove(temporary)
        raise CheckpointWriteError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise
    return path


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
    """Remove unfinished checkpoints that a killed process left behind; only the process that writes there may call this."""
    for unfinished in Path(folder).glob(f"checkpoint*.pt{TEMPORARY}"):
        logger.info(f"removing the unfinished checkpoint {unfinished}")
        _remove(os.fspath(unfinished))


def verify(path: str | os.PathLike) -> str | None:
    """None for a sound checkpoint, else what is wrong with it. Reads the whole file, at the speed of CRC-32."""
    try:
        if os.path.getsize(path) == 0:
            return "it is empty"
        if not is_zip(path):  # a stream of torch before 1.6 has no checksums, but lengths
            legacy.read(path)
            return None
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            return None if damaged is None else f"the checksum of its record {damaged} is wrong"
    except (zipfile.BadZipFile, EOFError) as error:
        return f"it is cut off or damaged ({error})"
    except Refused as error:
        return f"it holds {error}"
    except _DAMAGE as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def read(path: str | os.PathLike, with_tensors: bool = True) -> Any:
    """What a file of torch holds, through the restricted reader (see `legacy`): nothing in it runs.

    Raises:
        ValueError: the file is damaged, or holds something else than data; the message names it.
        FileNotFoundError: there is no such file.
    """
    path = os.fspath(path)
    os.stat(path)
    try:
        return legacy.read(path, with_tensors)
    except Refused as error:
        raise ValueError(f"{path} is not opened: it holds {error}. A checkpoint is data, and what else lies in a file might run.") from None
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
        entries = ", ".join(map(str, state)) or "nothing"
        raise ValueError(f"{path} is no checkpoint: it has no entry 'model', only {entries}.")
    try:
        return upgrade(state, path)
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is no checkpoint: its entries are not what fairseq writes ({error}).") from error


def _dict(path: str | os.PathLike, with_tensors: bool) -> dict[str, Any]:
    state = read(path, with_tensors)
    if not isinstance(state, dict):
        raise ValueError(f"{os.fspath(path)} is no checkpoint: it holds a {type(state).__name__}, not a dict.")
    return state


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
