"""Iterate over epochs of updates in a keyed order, sharded over ranks and resumable within an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fairseq.data.audio_dataset import AudioDataset, ReadsAhead
from fairseq.data.batch import Batch
from fairseq.data.batching import EVALUATION_EPOCH, Batches, plans_of_rank, update_order
from fairseq.data.options import LoaderOptions
from fairseq.data.update_iterator import UpdateIterator, sensible_workers

__all__ = ["EpochBatchIterator", "UpdateIterator", "sensible_workers"]

_DEFAULTS = LoaderOptions()
_BATCH_ORDER = 2  # third number of the key of the batch order; the utterance order uses another

logger = logging.getLogger(__name__)


class EpochBatchIterator:
    """Epochs over a data set for training or evaluation, sharded over ranks, resumable between any two updates.

    An update has `num_shards * update_freq` real batches. Their order depends on (seed, epoch) and this product, not on
    its factors. If a run resumes with another product, every batch is still used exactly once.

    Args:
        dataset: creates the batches.
        plan_fn: returns an epoch's batches, the same on every rank.
        options: this process's share of the batches, and the worker settings. With `evaluation`, plans have epoch 0, so
            crops, masks and negatives are the same each time.
        epoch: the first epoch, from 1.
    """

    def __init__(
        self,
        dataset: AudioDataset,
        plan_fn: Callable[[int], Batches],
        options: LoaderOptions = _DEFAULTS,
        epoch: int = 1,
    ) -> None:
        self.dataset = dataset
        self.plan_fn = plan_fn
        self.options = options
        self.epoch = max(epoch, 1)
        self.shuffle = not options.evaluation
        self._planned: tuple[int, Batches] | None = None
        self._current: UpdateIterator | None = None
        self._resumed: UpdateIterator | None = None  # created by load_state_dict, returned by the next next_epoch_itr
        # [update size, batches] consumed in this epoch before the current iterator
        self._segments: list[list[int]] = []
        self._reported_left_out = False
        self._steps_before = 0
        self._sequence_length = 0  # batches that the current iterator started with
        self._updates_at_begin = 0  # updates of the epoch before the current iterator

    # -- an epoch's plan -----------------------------------------------------------------------------------------------

    def update_size(self, epoch: int | None = None) -> int:
        """Return the number of real batches per update, over all ranks."""
        number = self.epoch if epoch is None else epoch
        return self.options.update_size(number)

    def _key(self, epoch: int) -> int:
        """Return the epoch that keys crops and masks."""
        return EVALUATION_EPOCH if self.options.evaluation else epoch

    def batches(self, epoch: int) -> Batches:
        """Return the epoch's batches; the result of the last epoch is cached.

        Raises:
            ValueError: there are no batches, or fewer than processes and the data set cannot create filler.
        """
        if self._planned is None or self._planned[0] != epoch:
            made = self.plan_fn(self._key(epoch))
            if len(made) == 0:
                raise ValueError(
                    "the data set has no utterances left. Check the manifest, task.min_sample_size and "
                    "task.max_sample_size."
                )
            if len(made) < self.options.num_shards and not self.dataset.makes_filler:
                raise ValueError(
                    f"the data set has {len(made)} batches, too few for {self.options.num_shards} processes. Lower "
                    "dataset.max_tokens or dataset.batch_size, or use fewer processes."
                )
            self._planned = (epoch, made)
        return self._planned[1]

    def total_samples(self, epoch: int) -> int:
        """Return the number of samples of an epoch, without padding and filler."""
        return self.dataset.total_samples(self.batches(epoch), epoch)

    def _remaining(self, epoch: int, shuffle: bool, segments: list[list[int]]) -> np.ndarray:
        """Return the epoch's remaining batches, in update order."""
        batches = self.batches(epoch)
        rest = np.arange(len(batches))
        if shuffle:
            rest = np.random.default_rng([self.options.seed, epoch, _BATCH_ORDER]).permutation(rest)
        for update_size, consumed in segments:
            done = update_order(rest, batches.buckets, update_size)[:consumed]
            left = np.ones(len(batches), dtype=bool)
            left[done] = False
            rest = rest[left[rest]]
        return rest

    def _begin(self, epoch: int, shuffle: bool, segments: list[list[int]], updates_done: int = 0) -> UpdateIterator:
        """Return an iterator over the rest of an epoch; it is exhausted if nothing is left."""
        size = self.update_size(epoch)
        segments = [list(segment) for segment in segments]
        batches = self.batches(epoch)
        # same size: continue in the same order
        consumed = segments.pop()[1] if segments and segments[-1][0] == size else 0
        rest = self._remaining(epoch, shuffle, segments)
        sequence = update_order(rest, batches.buckets, size)[consumed:]
        shards, shard = self.options.num_shards, self.options.shard_id
        if self.options.skip_remainder_batch and len(sequence) >= size:
            sequence = sequence[: len(sequence) - len(sequence) % size]
        elif not self.dataset.makes_filler and (left_out := len(sequence) % shards):
            sequence = sequence[: len(sequence) - left_out]
            if shard == 0 and not self._reported_left_out:
                self._reported_left_out = True
                logger.warning(
                    "batches left out per epoch: %d. This data set cannot create filler for %d processes",
                    left_out,
                    shards,
                )
        self._segments = [*segments, [size, consumed]]
        self._sequence_length, self._updates_at_begin = len(sequence), updates_done
        plans = plans_of_rank(batches, sequence, size, shards, shard, self._key(epoch))
        total = math.ceil(len(sequence) / size)
        expect = self.dataset.expect_plan if isinstance(self.dataset, ReadsAhead) else None
        return UpdateIterator(self.dataset.collate_plan, plans, total, updates_done, self.options, expect)

    @property
    def _active(self) -> UpdateIterator | None:
        """The current epoch's iterator, even if it is exhausted and its length is 0."""
        return self._current if self._current is not None else self._resumed

    # -- iterating -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of updates of the current epoch, including completed ones."""
        current = self._active
        return current.total if current is not None else math.ceil(len(self.batches(self.epoch)) / self.update_size())

    @property
    def first_batch(self) -> Batch:
        """A batch of this data, created in this process, to inspect its shapes."""
        return self.dataset.collate_plan(self.batches(self.epoch).plan(0, self._key(self.epoch), 0))

    @property
    def n(self) -> int:
        """Updates completed in the current epoch."""
        current = self._active
        return current.n if current is not None else 0

    @property
    def iterations_in_epoch(self) -> int:
        """Steps that this rank has completed in the current epoch."""
        current = self._active
        return self._steps_before + (current.steps_done if current is not None else 0)

    @property
    def next_epoch_idx(self) -> int:
        """The epoch that `next_epoch_itr` starts, or resumes after `load_state_dict`."""
        return (
            self.epoch + 1
            if self._resumed is None and self._current is not None and self.end_of_epoch()
            else self.epoch
        )

    def end_of_epoch(self) -> bool:
        """Return whether all updates of the epoch have been returned."""
        return self._current is not None and not self._current.has_next()

    def next_epoch_itr(
        self, shuffle: bool = True, fix_batches_to_gpus: bool = False, set_dataset_epoch: bool = True
    ) -> UpdateIterator:
        """Start the next epoch, or resume the one that `load_state_dict` restored.

        Args:
            shuffle: shuffle the batches. Utterances of equal length are always shuffled when batches are formed.
            fix_batches_to_gpus: ignored, for fairseq's callers: the order does not depend on the number of processes.
            set_dataset_epoch: call the data set's `set_epoch`.
        """
        self.epoch = self.next_epoch_idx
        if set_dataset_epoch:
            self.dataset.set_epoch(self.epoch)
        if self._resumed is not None:
            self._current, self._resumed = self._resumed, None
            return self._current
        self.shuffle = shuffle and not self.options.evaluation
        self._steps_before = 0
        if self._current is not None:
            self._current.close()
        self._current = self._begin(self.epoch, self.shuffle, [])
        return self._current

    def take_back(self, update: list[Batch]) -> None:
        """Mark the last returned update as not done in `state_dict`; this iterator does not return it again."""
        if self._current is not None:
            self._current.n -= 1
            self._current.steps_done -= len(update)

    def close(self) -> None:
        """Stop the workers of the current epoch, even if it is not finished."""
        for iterator in (self._current, self._resumed):
            if iterator is not None:
                iterator.close()

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the current position as plain containers, for `load_state_dict`."""
        if self.end_of_epoch():
            return self._state(self.epoch + 1, 0, 0, [])
        current = self._active
        if current is None:
            return self._state(self.epoch, 0, 0, [])
        size, consumed = self._segments[-1]
        done = min(self._sequence_length, (current.n - self._updates_at_begin) * size)
        segments = [*self._segments[:-1], [size, consumed + done]]
        return self._state(self.epoch, current.n, self.iterations_in_epoch, segments)

    def _state(self, epoch: int, updates: int, iterations: int, segments: list[list[int]]) -> dict[str, Any]:
        return {
            "version": 3,
            "epoch": epoch,
            "iterations_in_epoch": iterations,
            "updates_in_epoch": updates,
            "batches_in_epoch": sum(consumed for _, consumed in segments),
            "segments": segments,
            "num_batches": len(self.batches(self.epoch)) if segments else 0,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the same real batch, even if the number of processes or update_freq has changed.

        A state written by fairseq (version 1 or 2) counts steps of a rank, so the number of ranks is assumed to be the
        same.

        Raises:
            ValueError: the number of batches in the epoch has changed since the state was saved.
        """
        self.epoch = max(int(state_dict["epoch"]), 1)
        self.shuffle = bool(state_dict.get("shuffle", True)) and not self.options.evaluation
        self._current = self._resumed = None
        self._steps_before = int(state_dict.get("iterations_in_epoch", 0))
        if state_dict.get("version", 1) < 3:
            size = self.update_size()
            segments = [[size, self._steps_before * self.options.num_shards]]
            updates = math.ceil(segments[0][1] / size)
        else:
            segments = [list(segment) for segment in state_dict["segments"]]
            updates = int(state_dict["updates_in_epoch"])
        consumed = sum(count for _, count in segments)
        if consumed == 0:
            self._steps_before = 0
            return
        total = len(self.batches(self.epoch))
        saved_total = state_dict.get("num_batches", total)
        if saved_total != total:
            raise ValueError(
                f"the checkpoint was saved at batch {consumed} of {saved_total} of epoch {self.epoch}, but the epoch "
                f"now has {total} batches: the manifest or the batch settings (dataset.max_tokens, batch_size, "
                "task.max_sample_size ...) have changed. Restore them, or set checkpoint.reset_dataloader=true to "
                "start the epoch again."
            )
        if consumed >= total:  # saved at the end of the epoch
            self.epoch += 1
            self._steps_before = 0
            return
        self._resumed = self._begin(self.epoch, self.shuffle, segments, updates)
