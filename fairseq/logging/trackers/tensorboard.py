"""TensorBoard: scalars of a run, one folder per tag. A failure is reported once and never stops the run."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import torch

from fairseq.logging.meters import AverageMeter
from fairseq.logging.metrics_file import Json
from fairseq.logging.trackers.rows import Place, Row, text_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

AGAIN = 2000  # rows before a resume that are written again; more than can have been lost in the queue


class Board:
    """A run's output below `common.tensorboard_logdir`; a folder's writer is opened with its first scalar.

    Args:
        start_update: the update that the run starts or resumes from. Earlier output for later updates is hidden
            (`purge_step`).
    """

    def __init__(self, folder: str, start_update: int) -> None:
        self.folder, self.start_update = folder, start_update
        self._writers: dict[str, SummaryWriter] = {}
        self._is_over = False
        _keep_threads_quiet()

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        def write(writer: SummaryWriter) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        self._attempt(tag, write)

    def text(self, key: str, text: str, step: int = 0) -> None:
        self._attempt("", lambda writer: writer.add_text(key, text, step))

    def close(self) -> None:
        for writer in self._writers.values():
            try:
                writer.close()
            except Exception as error:  # see _attempt
                self._give_up(error)
        self._writers.clear()

    def _attempt(self, tag: str, write: Callable[[SummaryWriter], None]) -> None:
        if self._is_over:
            return
        try:
            write(self._writer(tag))
        except ImportError:
            self._is_over = True
            logger.warning(
                "common.tensorboard_logdir is ignored, because tensorboard is not installed. Install it: pip install "
                "tensorboard"
            )
        except Exception as error:
            # any class: tensorboard raises its thread's errors, which may be TensorFlow's if that is installed
            self._give_up(error)

    def _writer(self, tag: str) -> SummaryWriter:
        if tag not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[tag] = SummaryWriter(os.path.join(self.folder, tag), purge_step=self.start_update + 1)
            self._writers[tag].add_text("sys.argv", " ".join(sys.argv))
        return self._writers[tag]

    def _give_up(self, error: Exception) -> None:
        if not self._is_over:
            self._is_over = True
            logger.error(
                f"cannot write common.tensorboard_logdir={self.folder}: {error}; the run continues without TensorBoard"
            )


class BoardTracker:
    """A run's board as a tracker, with its config and findings as texts.

    TensorBoard cannot say quickly which rows it has. So a resumed run writes the latest rows before its start again,
    and hides the older copies of them.

    Args:
        start_update: the update that the run starts or resumes from.
        config: the run's config by group.
    """

    def __init__(self, folder: str, start_update: int, config: Mapping[str, Json]) -> None:
        self.folder, self.start_update, self.config = folder, start_update, config
        self.board: Board | None = None

    def begin(self, rows: Sequence[Row]) -> Collection[Place]:
        """Open the board; see `fairseq.logging.trackers.queue.Tracker`."""
        before = [row for row in rows if row.update <= self.start_update]
        hidden = before[-AGAIN].update if len(before) >= AGAIN else min((row.update for row in before), default=None)
        if self.board is None:
            self.board = Board(self.folder, self.start_update if hidden is None else hidden - 1)
            if self.config:
                self.board.text("config", config_text(self.config), self.start_update)
        return [row.place for row in before if hidden is not None and row.update < hidden]

    def write(self, rows: Sequence[Row]) -> None:
        if self.board is not None:
            for row in rows:
                self.board.scalars(row.split, dict(row.values), row.update)

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        if self.board is not None:
            self.board.text(f"findings/{finding['name']}", text_of(update, finding), update)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def abandon(self) -> None:
        """Do nothing: its thread does not keep the process from exiting."""


def config_text(config: Mapping[str, object]) -> str:
    """Write a config as a block of JSON, which TensorBoard shows as it is."""
    return "```\n" + json.dumps(config, indent=2, default=str) + "\n```"


def scalars_of(stats: Mapping[str, object]) -> dict[str, float]:
    """Select the numbers among a log line's values: latest values of averages, and one-element tensors."""
    scalars: dict[str, float] = {}
    for key, value in stats.items():
        number = value.val if isinstance(value, AverageMeter) else value
        if key == "num_updates":
            continue
        if isinstance(number, Real) or (isinstance(number, torch.Tensor) and number.numel() == 1):
            scalars[key] = float(number)
    return scalars


_boards: dict[str, Board] = {}


def board(folder: str, start_update: int) -> Board:
    """Return the board of a folder for `progress_bar`; all bars share it, with the `start_update` of the first."""
    if not _boards:
        atexit.register(close)
    return _boards.setdefault(folder, Board(folder, start_update))


def close() -> None:
    """Flush and close the boards of progress bars."""
    for each in _boards.values():
        each.close()
    _boards.clear()
    atexit.unregister(close)


def _keep_threads_quiet() -> None:
    """Hide tracebacks of tensorboard's writer thread, whose errors `Board` also receives and reports."""
    shown = threading.excepthook
    if shown.__module__ == __name__:
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            shown(arguments)

    threading.excepthook = hook
