"""Write files and folders under a temporary name, and put them in place when they are complete and on the disk."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp"  # the ending of unfinished checkpoints
ASIDE = ".old.tmp"  # of a folder that is being replaced


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; an older file of the same name is intact."""


def temporary_name(path: str) -> str:
    """Return a name next to this one. It is random: another process, on another machine, may write the same file."""
    return f"{path}.{secrets.token_hex(4)}{TEMPORARY}"


class Disk:
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


def write(path: str | os.PathLike, write: Callable[[Disk], None]) -> str:
    """Write a file atomically (temporary file, fsync, rename), and return its path.

    Args:
        write: writes the content.
    Raises:
        CheckpointWriteError: the file cannot be written, for example on a full disk; the temporary file is removed, and
            an older file of this name is kept.
    """
    path = os.fspath(path)
    temporary = temporary_name(path)
    disk: Disk | None = None
    try:
        with open(temporary, "xb") as file:
            disk = Disk(file)
            write(disk)
            disk.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, path)
        sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        remove(temporary)
        raise refused(path, error) from error
    except BaseException as error:
        remove(temporary)
        if disk is not None and disk.refusal is not None and isinstance(error, Exception):
            raise refused(path, disk.refusal) from error
        raise
    return path


def refused(path: str, error: OSError) -> CheckpointWriteError:
    """Return the error for a checkpoint that the system did not let us write."""
    return CheckpointWriteError(error.errno, f"cannot write {path}: {error.strerror or error}")


def _put_in_place(temporary: str, path: str) -> None:
    """Rename a finished file. A symbolic link of that name is replaced: its target may be another checkpoint."""
    link = os.readlink(path) if os.path.islink(path) else None
    os.replace(temporary, path)
    if link is not None:
        logger.warning(f"{path} was a symbolic link to {link}; it is now a regular file, and the target is unchanged")


def sync_folder(folder: str) -> None:
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


def remove(path: str) -> None:
    """Remove a file or a folder. A folder disappears at once, under a temporary name, and not file by file."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            if not path.endswith(TEMPORARY):
                path, before = temporary_name(path), path
                os.rename(before, path)
            shutil.rmtree(path)
        else:
            os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning(f"cannot remove {path}: {error}")


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Create a folder under a temporary name inside a `with` block, and put it in place at the block's end.

    Yields:
        the temporary name. It is removed if the block raises.
    Raises:
        CheckpointWriteError: the folder cannot be written; an older one of this name is kept.
    """
    temporary = temporary_name(path)
    try:
        os.makedirs(temporary)
        yield temporary
        put_folder_in_place(temporary, path)
    except OSError as error:
        remove(temporary)
        raise refused(path, error) from error
    except BaseException:
        remove(temporary)
        raise


def put_folder_in_place(temporary: str, path: str) -> None:
    """Rename a finished folder; an older one of that name is moved aside, then removed.

    After a kill between the two renames, `recover` puts the new one in place.
    """
    for name in os.listdir(temporary):
        with open(os.path.join(temporary, name), "rb") as file:
            os.fsync(file.fileno())
    sync_folder(temporary)
    aside = None
    if os.path.lexists(path):
        aside = f"{path}.{secrets.token_hex(4)}{ASIDE}"
        os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except OSError:
        if aside is not None:
            os.rename(aside, path)
        raise
    sync_folder(os.path.dirname(path) or ".")
    if aside is not None:
        remove(aside)


def recover(folder: str | os.PathLike, pattern: str, is_complete: Callable[[str], bool]) -> None:
    """Put in place what a killed process had finished, and remove what it had not.

    Call it only in the process that writes to the folder.

    Args:
        pattern: matches the checkpoints' names without the temporary ending.
        is_complete: whether a folder under a temporary name is a checkpoint.
    """
    # names set aside last: the folder that was to replace one is newer
    found = sorted(glob.glob(os.path.join(os.fspath(folder), f"{pattern}{TEMPORARY}")), key=lambda n: n.endswith(ASIDE))
    for unfinished in found:
        target = unfinished.removesuffix(ASIDE).removesuffix(TEMPORARY).rpartition(".")[0]
        if os.path.isdir(unfinished) and not os.path.lexists(target) and is_complete(unfinished):
            logger.info(f"renaming the checkpoint {unfinished}, which a killed process had finished, to {target}")
            os.rename(unfinished, target)
        else:
            logger.info(f"removing the unfinished checkpoint {unfinished}")
            remove(unfinished)
