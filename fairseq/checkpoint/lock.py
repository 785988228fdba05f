"""Allow one run at a time in a `checkpoint.save_dir`: two would overwrite each other's checkpoints and metrics.

The lock file names the holder's host and process, and the holder keeps a POSIX lock on it. The kernel drops the POSIX
lock when the process ends, so a killed run never blocks the next one. Between hosts, where POSIX locks may not work,
the file's content decides.
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
from fairseq.distributed.restarts import SESSION

logger = logging.getLogger(__name__)

NAME = "run.lock"
_HELD = (errno.EACCES, errno.EAGAIN)  # raised when another process holds the POSIX lock


class Holder(NamedTuple):
    """The process that trains in a folder."""

    host: str
    pid: int
    started: str  # boot id and start tick, "" if unknown: process ids are reused
    job: str  # id of the SLURM job or torchrun, "" if none: it stays the same if rank 0 restarts on another host

    @classmethod
    def this_process(cls) -> Holder:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get(SESSION, "")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), job)

    def is_running_here(self) -> bool:
        """Whether this is another live process on this host."""
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
    """Identify a process by its start, which is never reused; empty if it does not exist or there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


class FolderLock:
    """A lock on a folder, held from `acquire` to `release` or to the end of the process.

    Args:
        folder: an existing, writable folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = os.path.join(folder, NAME)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or take it over from a dead run.

        Raises:
            ValueError: another run holds it; the message names that run and what to do.
            OSError: the lock file cannot be written.
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
            os.close(descriptor)  # the holder removed the file between our open and our lock: try again

    def _take(self, descriptor: int) -> None:
        held = False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # any other errno: no locks on this file system, so the file's content decides
            held = error.errno in _HELD
        before, own = _read(descriptor), Holder.this_process()
        if held or (before is not None and (before.is_running_here() or self._may_run_elsewhere(before, own))):
            raise ValueError(self._refusal(before, own))
        if before is not None and before.pid != own.pid:
            logger.info(
                f"took over {self.path}: it was left behind by process {before.pid}, which is no longer running"
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
                f"checkpoint.save_dir={folder} is in use by another run. Set another folder, or stop the other run "
                "first."
            )
        who = f"process {holder.pid} on {holder.host}"
        if holder.host == own.host:
            return f"checkpoint.save_dir={folder} is in use by {who}. Set another folder, or stop that process first."
        return (
            f"checkpoint.save_dir={folder} is in use by {who}, which cannot be checked from this host ({own.host}). "
            f"Set another folder; if that process has ended, remove {self.path} and rerun."
        )

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock file and drop the lock."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # the disk became read-only: the next run takes over a dead run's file
            if self._is_still_there(self._descriptor):
                os.remove(self.path)
        os.close(self._descriptor)
        self._descriptor = None


def _read(descriptor: int) -> Holder | None:
    """Parse the lock file; None if it is empty or incomplete, as between creating and writing it."""
    try:
        values: Any = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(str(values["host"]), int(values["pid"]), str(values["started"]), str(values["job"]))
    except (ValueError, TypeError, LookupError):
        return None


@contextlib.contextmanager
def save_dir_held(cfg: CheckpointConfig, writes: bool) -> Iterator[None]:
    """Hold the lock on `checkpoint.save_dir` inside a `with` block.

    Args:
        writes: whether this process writes checkpoints; other processes take no lock.
    Raises:
        ConfigError: another run uses that folder.
    """
    held = FolderLock(cfg.save_dir)
    if writes:
        try:
            os.makedirs(cfg.save_dir, exist_ok=True)
            held.acquire()
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        except OSError as error:  # `run.verify_folder` rejects the folder, unless checkpoint.no_save is set
            logger.debug(f"no lock in {cfg.save_dir}: {error}")
    try:
        yield
    finally:
        held.release()
