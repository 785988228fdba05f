"""The data of a run: the training set, the validation sets, and the files of each that cannot be decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fairseq.data.audio.quarantine import Quarantine
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.base import RunError
from fairseq.dataclass.training_configs import valid_subsets
from fairseq.distributed import progress
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")


class Sets:
    """The iterators of a run's data sets.

    Opening them builds the batches of all sets and reads one batch of each, so mistakes are reported before training.

    Args:
        training: the training set's iterator, at the run's first update.
    Raises:
        ValueError: a set has no batch, or its first batch cannot be read; names the manifest.
    """

    def __init__(self, trainer: Trainer, training: EpochBatchIterator) -> None:
        self.task = trainer.task
        self.training = training
        self.train_subset: str = trainer.cfg.dataset.train_subset
        self.validation: dict[str, EpochBatchIterator] = {}
        self._quarantines: dict[str, Quarantine] = {}
        self._sources: dict[str, str] = {}  # of each set, for messages
        logger.info("building batches and reading the first one of each set")
        self._open_training()
        for subset in valid_subsets(trainer.cfg.dataset):
            self._open_validation(subset, trainer)

    def _open_training(self) -> None:
        with self._naming(self.train_subset):
            quarantine = self._begin_quarantine(self.train_subset)
            self.training.batches(self.training.next_epoch_idx)
            quarantine.report(self.training.first_batch["quarantined"])

    def _open_validation(self, subset: str, trainer: Trainer) -> None:
        quarantine = self._begin_quarantine(subset)
        limits = "the limits of validation are dataset.max_tokens_valid and batch_size_valid"
        with self._naming(subset, f" ({limits})"):
            self.validation[subset] = iterator = trainer.get_valid_iterator(subset)
            iterator.batches(iterator.epoch)
        with self._naming(subset):
            quarantine.report(iterator.first_batch["quarantined"])

    def _begin_quarantine(self, subset: str) -> Quarantine:
        self._sources[subset] = self.task.split_source(subset)
        progress.doing("starting", f"reading the first batch of {self._sources[subset]}")
        size, max_share = len(self.task.dataset(subset)), self.task.max_quarantined_share
        return self._quarantines.setdefault(subset, Quarantine(size, max_share))

    @contextmanager
    def _naming(self, subset: str, hint: str = "") -> Iterator[None]:
        """Start errors about a set with its manifest."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.task.split_source(subset)}: {error}{hint}") from error

    @contextmanager
    def reading(self, subset: str) -> Iterator[Quarantine]:
        """Turn errors while reading batches of a set into errors of the run.

        Returns:
            the quarantine, which records files that cannot be decoded.
        Raises:
            RunError: a file cannot be read, for example because it changed; one line that starts with the manifest.
        """
        progress.of_this_process().source = self._sources[subset]
        try:
            yield self._quarantines[subset]
        except RunError:
            raise
        except ValueError as error:
            reason = "; ".join(line.strip() for line in str(error).rstrip(".").splitlines())
            raise RunError(f"{self._sources[subset]}: {reason}.") from error

    def close(self) -> None:
        """End the data-loading workers, which must not outlive the training."""
        for iterator in (self.training, *self.validation.values()):
            iterator.close()
