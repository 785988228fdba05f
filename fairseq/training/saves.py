"""A run's saves, and the log line and exit status with which it ends: how much of the run is on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from fairseq.checkpoint.saver import Saver
from fairseq.data.batch import Batch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.base import RunError
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import exit_status, progress
from fairseq.training.between_ranks import RanksDiffer
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")


class Saves:
    """Save a `Trainer`'s run with its position in the data.

    Every process has one and saves at the same updates; rank 0 writes.

    Args:
        epoch_itr: the loaded training set's iterator.
    """

    def __init__(self, trainer: Trainer, epoch_itr: EpochBatchIterator) -> None:
        self.trainer = trainer
        self.epoch_itr = epoch_itr
        self.cfg: CheckpointConfig = trainer.cfg.checkpoint
        self.in_training: list[Batch] | None = None  # the micro-batches of the update in progress
        # false from the end of an update until the processes have exchanged its metrics: a run that resumed from there
        # would not repeat the update's rows, validation and steps of the schedule
        self.is_settled = True
        update = trainer.get_num_updates()
        self.last_checkpoint = f"is of update {update}" if update else "is not written yet"
        self._tried_at = update  # the update of the last attempted save, the same on all processes
        self._error: str | None = None  # why that save wrote nothing
        self._unsent: str | None = None  # which checkpoints are not in checkpoint.store, and why
        self._saver = Saver(self.cfg, trainer)

    def save(self, val_loss: float | None, stopping: bool = False, ended_epoch: int | None = None) -> None:
        """Write what is due, together with the other processes; see `Saver.begin`.

        With `checkpoint.async_save`, this copies the state, and returns while it is written, unless `stopping`.
        """
        self.finish()
        if self.in_training is not None:  # an error interrupted this update: a resumed run repeats it
            self.epoch_itr.take_back(self.in_training)
            self.in_training = None
        self._tried_at = self.trainer.get_num_updates()
        progress.doing("saving")
        self._saver.begin(self.epoch_itr, val_loss, stopping, ended_epoch)
        if stopping or not self._saver.in_background:
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint in progress is written, and note what became of it."""
        if self._saver.is_writing:
            progress.doing("saving")
        result = self._saver.finish()
        if result is not None:
            self._error = None if result.paths else result.error
            self._unsent = result.unsent
            if result.paths:
                self.last_checkpoint = f"is {result.paths[0]}, of update {result.updates}"

    def save_alone(self) -> None:
        """Save on rank 0 without the other processes, which may not get here; possible if it holds the whole state."""
        if not self.trainer.is_data_parallel_master:
            return
        if not self.is_settled and self.trainer.data_parallel_world_size > 1:
            self._tried_at = self.trainer.get_num_updates()
            self._error = "the processes had not completed its metrics"
        elif self.trainer.strategy.holds_all:
            self.save(None, stopping=True)
        else:
            self._tried_at = self.trainer.get_num_updates()
            self._error = "each process holds a shard of the model, and not all processes are available"

    def save_the_end(self) -> None:
        """Save after the run's last update, if that has not been done."""
        if self._tried_at != self.trainer.get_num_updates():
            self.save(None)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def at_the_end(self) -> int:
        """Return the exit status of a run that finished training."""
        self.finish()
        if self._error is None:
            # a kind of its own: one file of a large model takes longer to write than the shards did
            progress.doing("saving", "the last checkpoint as one file", kind="consolidation")
            self._saver.consolidate_the_end()
            progress.doing("saving", "what is not in checkpoint.store yet")
            self._unsent = self._saver.send_rest()
            if self._unsent is None:
                return 0
            logger.error(
                "training finished at update %d, but %s. Rerun the same command on this machine, which uploads what "
                "is missing; or copy it by hand.",
                self._tried_at,
                self._unsent,
            )
            return exit_status.UNSAVED
        logger.error(
            "training finished at update %d, but its last state is not saved: %s. The last checkpoint %s. Free disk "
            "space and rerun the same command.",
            self._tried_at,
            self._error,
            self.last_checkpoint,
        )
        return exit_status.UNSAVED

    def after_collapse(self) -> int:
        """Log that `common.doctor=stop` ended the run; returns the exit status."""
        outcome = "not saved: checkpoint.no_save is true" if self.cfg.no_save else "saved"
        logger.error(
            "ended at update %d, because the run has collapsed; %s. The finding above says what to change; with "
            "common.doctor=warn, the same command continues the run as it is.",
            self.trainer.get_num_updates(),
            outcome,
        )
        return exit_status.COLLAPSED

    def after_signal(self, who: str) -> int:
        """Log whether a run that a signal stopped was saved; returns the exit status, 0 on all ranks but rank 0.

        When a rank exits with an error, a launcher kills rank 0, which may still be saving.
        """
        self.finish()
        update = self.trainer.get_num_updates()
        if not self.trainer.is_data_parallel_master:
            logger.info("stopped by %s at update %d.", who, update)
            return 0
        if self.cfg.no_save:
            logger.warning("stopped by %s at update %d; not saved: checkpoint.no_save is true.", who, update)
        elif self._error is not None:
            why = f"{self._error}. The last checkpoint {self.last_checkpoint}"
            logger.error("stopped by %s at update %d; not saved: %s.", who, update, why)
            return exit_status.UNSAVED
        elif self._unsent is not None:
            logger.error(
                "stopped by %s at update %d; saved here only: %s. Rerun the same command on this machine to resume and "
                "to upload it.",
                who,
                update,
                self._unsent,
            )
            return exit_status.UNSAVED
        else:
            logger.info("stopped by %s at update %d; saved. Rerun the same command to resume.", who, update)
        return exit_status.STOPPED

    def after_error(self, error: Exception, flush: Callable[[bool], None]) -> NoReturn:
        """Save without the other processes, which may not get here, and raise the error again.

        Args:
            flush: called with True, reads the device up to the last update; waits for the other processes.
        Raises:
            RunError: the error is the user's, so one line without a traceback is enough.
            Exception: any other error, unchanged.
        """
        self.finish()
        differ = isinstance(error, RanksDiffer)  # nobody knows whose state is right
        saves = self.trainer.is_data_parallel_master and not differ
        outcome = self._save_after_error(flush) if saves else ""
        if isinstance(error, RunError):
            raise RunError(f"{error} {outcome}".rstrip()) from error
        if outcome:
            logger.error("%s: %s", type(error).__name__, outcome)
        raise error

    def _save_after_error(self, flush: Callable[[bool], None]) -> str:
        update = self.trainer.get_num_updates()
        if not self.trainer.is_between_updates:
            return (
                f"Update {update} is not saved, because the error came while the weights were changing. The last "
                f"checkpoint {self.last_checkpoint}."
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
        if self._unsent is not None:
            return f"Update {update} is saved here only: {self._unsent}. Rerun the same command on this machine."
        return f"Update {update} is saved. Rerun the same command to resume."
