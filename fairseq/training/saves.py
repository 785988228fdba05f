"""A run's saves, and what each of its ends says about them: how much of the run is on the disk, and the exit status
that tells scripts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from fairseq.checkpoint import run
from fairseq.data.batch import Batch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.base import RunError
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import launch, roll_call
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")


class Saves:
    """Saves a `Trainer`'s run together with its place in the data. Every process has one and saves at the same updates;
    the first one writes.

    Args:
        epoch_itr: the training set's iterator, loaded.
    """

    def __init__(self, trainer: Trainer, epoch_itr: EpochBatchIterator) -> None:
        self.trainer = trainer
        self.epoch_itr = epoch_itr
        self.cfg: CheckpointConfig = trainer.cfg.checkpoint
        self.in_training: list[Batch] | None = None  # the update that was handed out and is not done yet
        update = trainer.get_num_updates()
        self.last_checkpoint = f"is of update {update}" if update else "is not written yet"
        self._tried_at = update  # the update at which the last save was asked for, the same on all processes
        self._error: str | None = None  # why that save wrote nothing

    def save(self, val_loss: float | None, stopping: bool = False) -> None:
        """Write what is due, together with the other processes; see `checkpoint.run.save`."""
        if self.in_training is not None:  # an error came before it was trained: it is the next one to train
            self.epoch_itr.take_back(self.in_training)
            self.in_training = None
        self._tried_at = self.trainer.get_num_updates()
        roll_call.doing(f"writing a checkpoint of update {self._tried_at}")
        result = run.save(self.cfg, self.trainer, self.epoch_itr, val_loss, stopping)
        if result is not None:
            self._error = None if result.paths else result.error
            if result.paths:
                self.last_checkpoint = f"is {result.paths[0]}, of update {self._tried_at}"

    def save_alone(self) -> None:
        """Save what is trained, though the other processes may not get this far: the first process does, if it holds
        all there is to save.
        """
        if not self.trainer.is_data_parallel_master:
            return
        if self.trainer.strategy.holds_all:
            self.save(None, stopping=True)
        else:
            self._tried_at = self.trainer.get_num_updates()
            self._error = "each process holds a part of the model, and not all of them got this far"

    def save_the_end(self) -> None:
        """Save where the run's last update was no time to do so."""
        if self._tried_at != self.trainer.get_num_updates():
            self.save(None)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def at_the_end(self) -> int:
        """The exit status of a run that came to its end."""
        if self._error is None:
            return 0
        logger.error(
            "the run is at its end, update %d, but this state is not saved: %s. The last checkpoint %s. Free space, "
            "and start the same command again.",
            self._tried_at,
            self._error,
            self.last_checkpoint,
        )
        return launch.UNSAVED

    def after_signal(self, who: str) -> int:
        """Say what became of a run that a signal stopped; returns the exit status. All processes but the first end with
        0.

        A launcher would kill the first one, which may still be saving, when another one ends with an error.
        """
        update = self.trainer.get_num_updates()
        if not self.trainer.is_data_parallel_master:
            logger.info("stopped by %s at update %d.", who, update)
            return 0
        if self.cfg.no_save:
            logger.warning("stopped by %s at update %d; not saved: checkpoint.no_save is true.", who, update)
        elif self._error is not None:
            why = f"{self._error}. The last checkpoint {self.last_checkpoint}"
            logger.error("stopped by %s at update %d; not saved: %s.", who, update, why)
            return launch.UNSAVED
        else:
            logger.info("stopped by %s at update %d; saved. The same command continues from there.", who, update)
        return launch.STOPPED

    def after_error(self, error: Exception, flush: Callable[[bool], None]) -> NoReturn:
        """Save what is trained, alone, since other processes may not get so far. Then end with the error.

        Args:
            flush: called with True, reads the device up to the last update; waits for the other processes.
        Raises:
            RunError: where a sentence says all.
            Exception: the error itself, where its traceback is needed.
        """
        told = self._save_after_error(flush) if self.trainer.is_data_parallel_master else ""
        if isinstance(error, RunError):
            raise RunError(f"{error} {told}".rstrip()) from error
        if told:
            logger.error("%s: %s", type(error).__name__, told)
        raise error

    def _save_after_error(self, flush: Callable[[bool], None]) -> str:
        update = self.trainer.get_num_updates()
        if not self.trainer.is_between_updates:
            return (
                f"The weights were being changed, so update {update} is not saved: the last checkpoint "
                f"{self.last_checkpoint}."
            )
        if self._tried_at != update and not self.cfg.no_save:
            if self.trainer.data_parallel_world_size == 1:
                with suppress(FloatingPointError):  # it may be the error itself
                    flush(True)
            self.save_alone()
        if self._error is not None:
            return f"Update {update} is not saved: {self._error}. The last checkpoint {self.last_checkpoint}."
        if self.cfg.no_save or update == 0:
            return ""
        return f"Update {update} is saved: the same command continues from there."
