"""Destinations of log lines: standard output and `common.log_file`.

A destination that fails is reported once, and the run continues.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Optional, Union

logger = logging.getLogger(__name__)


def send_lines_to(*handlers: logging.Handler, level: Optional[str] = None, who: str = "") -> None:
    """Send the lines of all loggers to these handlers only, in fairseq's format.

    Args:
        level: the lowest level shown; None: the environment variable LOGLEVEL, or INFO.
        who: prefix of each message, for ranks other than 0.
    """
    logging.basicConfig(
        format=f"%(asctime)s | %(levelname)s | %(name)s | {who}%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=os.environ.get("LOGLEVEL", "INFO").upper() if level is None else level,
        handlers=handlers,
        force=True,
    )


class StandardOutput(logging.StreamHandler):
    """Standard output. Writing may fail: a pipe without a reader, a closed terminal, a file on a full disk."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._failure_reported = False
        atexit.register(self._flush_at_exit)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failure_reported:
            self._failure_reported = True
            _to_stderr(
                f"cannot write the log to standard output: {error.strerror or error}; the run continues without it"
            )

    def _flush_at_exit(self) -> None:
        """Drop what standard output still refuses; otherwise Python would exit with status 120."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            except (OSError, ValueError):
                return


class LogFile(logging.Handler):
    """Append to `common.log_file`, each line whole and at once.

    Args:
        path: the file; its folder is created.
    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Union[str, os.PathLike]) -> None:
        super().__init__()
        self.path = Path(os.path.abspath(path))
        self._failure_reported = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: Optional[int] = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def begin(self) -> None:
        """Write a line with this process's id and host.

        Raises:
            OSError: the file cannot be written. (On a full disk, opening it still works.)
        """
        self._write(f"-- log of process {os.getpid()} on {socket.gethostname()}\n")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record) + "\n")
        except OSError as error:
            if not self._failure_reported:
                self._failure_reported = True
                logger.error(
                    f"cannot write common.log_file={self.path}: {error.strerror or error}; the run continues without it"
                )
        except (TypeError, ValueError):  # the record cannot be formatted
            self.handleError(record)

    def _write(self, line: str) -> None:
        rest = memoryview(line.encode(errors="backslashreplace"))
        while rest and self._descriptor is not None:  # after close, lines are dropped
            rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        super().close()


def _to_stderr(sentence: str) -> None:
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:  # standard error is closed too
        return


def add_file(source: logging.Logger, path: Union[str, os.PathLike]) -> None:
    """Also write a logger's lines to a file, unless the logger or one of its parents already does."""
    target, above = Path(os.path.abspath(path)), source
    while above is not None:
        if any(isinstance(handler, LogFile) and handler.path == target for handler in above.handlers):
            return
        above = above.parent if above.propagate else None
    source.addHandler(LogFile(target))


def problem_of_folder(path: Union[str, os.PathLike]) -> str | None:
    """Try to write into a folder; returns the reason if that fails, else None. Nothing is left of the attempt."""
    probe = os.path.join(path, f".writable.{os.getpid()}")
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        os.makedirs(path, exist_ok=True)
        with open(probe, "wb", buffering=0) as file:
            file.write(b"x")  # on a full disk, opening a file still works
    except FileExistsError:
        return "it is not a folder"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        if os.path.exists(probe):
            os.remove(probe)
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
    return None
