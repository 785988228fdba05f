"""One run at a time in a `checkpoint.save_dir`: two would overwrite each other's checkpoints and mix their metrics.

The lock is a file with the host and process of its holder, which also holds a POSIX lock on it: the kernel drops that
one with the process, so a killed run leaves nothing behind that stops the next. What the file says decides where a
POSIX lock does not reach: on other hosts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import CheckpointConfig

logger = logging.getLogger(__name__)

NAME = "run.lock"
_HELD = (errno.EACCES, errno.EAGAIN)  # what a POSIX lock that another process holds raises


class Holder(NamedTuple):
    """The process that trains in a folder."""

    host: str
    pid: int
    started: str  # boot and clock tick, "" where unknown: a number is given to another process sooner or later
    job: str  # SLURM's, "" without: a job that is put back into the queue keeps its number on another host

    @classmethod
    def this_process(cls) -> Holder:
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), os.environ.get("SLURM_JOB_ID", ""))

    def is_running_here(self) -> bool:
        """Whether it is another living process of this host."""
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        started = _started(self.pid)
        if started and self.started:
            return started == self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def _started(pid: int) -> str:
    """When a process began: unlike its number, never used again. Empty where there is no such process, or no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


class FolderLock:
    """Held from `acquire` to `release`, or until the process ends.

    Args:
        folder: exists, and can be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = os.path.join(folder, NAME)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, over from a run that is dead where it is.

        Raises:
            ValueError: another run has it; says which, and what to do.
            OSError: the file cannot be written.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(descriptor)
                if self._is_still_there(descriptor):
                    self._descriptor = descriptor
                    return
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its holder removed it between our opening and locking

    def _take(self, descriptor: int) -> None:
        held = False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others: the file system has no locks, and the file's text alone decides
            held = error.errno in _HELD
        before, own = _read(descriptor), Holder.this_process()
        if held or (before is not None and (before.is_running_here() or self._may_run_elsewhere(before, own))):
            raise ValueError(self._refusal(before, own))
        if before is not None and before.pid != own.pid:
            logger.info(
                f"{self.path} is left over from process {before.pid}, which is not running any more: taken over"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(own._asdict()) + "\n").encode(), 0)

    @staticmethod
    def _may_run_elsewhere(holder: Holder, own: Holder) -> bool:
        return holder.host != own.host and not (holder.job and holder.job == own.job)

    def _refusal(self, holder: Holder | None, own: Holder) -> str:
        folder = os.path.dirname(self.path)
        if holder is None:
            return (
                f"checkpoint.save_dir {folder} is in use by another run. Give this one another folder, or stop "
                "the other first."
            )
        who = f"process {holder.pid} on {holder.host}"
        if holder.host == own.host:
            return (
                f"checkpoint.save_dir {folder} is in use by {who}. Give this run another folder, or stop that "
                "process first."
            )
        return (
            f"checkpoint.save_dir {folder} is in use by {who}, which cannot be checked from here ({own.host}). Give "
            f"this run another folder; if that process has ended, remove {self.path} and start again."
        )

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, so that the folder shows that nobody trains in it."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a disk that turned read-only: the file names a dead process soon
            if self._is_still_there(self._descriptor):
                os.remove(self.path)
        os.close(self._descriptor)
        self._descriptor = None


def _read(descriptor: int) -> Holder | None:
    """What the file says; None where it says nothing, as between its making and its writing."""
    try:
        values: Any = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(str(values["host"]), int(values["pid"]), str(values["started"]), str(values["job"]))
    except (ValueError, TypeError, LookupError):
        return None


@contextlib.contextmanager
def save_dir_held(cfg: CheckpointConfig, writes: bool) -> Iterator[None]:
    """Within, no other run writes to `checkpoint.save_dir`.

    Args:
        writes: whether this process is the one that writes; the others only pass.
    Raises:
        ConfigError: another run is in that folder.
    """
    held = FolderLock(cfg.save_dir)
    if writes:
        try:
            os.makedirs(cfg.save_dir, exist_ok=True)
            held.acquire()
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        except OSError as error:  # `run.verify_folder` refuses it, unless nothing is to be saved
            logger.debug(f"no lock in {cfg.save_dir}: {error}")
    try:
        yield
    finally:
        held.release()
