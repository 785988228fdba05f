"""TensorBoard: scalars of a run, one folder per tag. A failure is reported once and never stops the run."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

import torch

from fairseq.logging.meters import AverageMeter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


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

    def write(self, split: str, update: int, epoch: int, stats: Mapping[str, object]) -> None:
        """Write the numbers among `stats`; see `fairseq.logging.sinks.Sink`."""
        self.scalars(split, scalars_of(stats), update)

    def scalars(self, tag: str, values: dict[str, float], step: int) -> None:
        def write(writer: SummaryWriter) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        self._attempt(tag, write)

    def text(self, key: str, text: str) -> None:
        self._attempt("", lambda writer: writer.add_text(key, text))

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
