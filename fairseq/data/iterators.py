"""Epochs of updates in a keyed order, sharded over ranks and resumable in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batch import Batch
from fairseq.data.batching import EVALUATION_EPOCH, Batches, plans_of_rank, update_order
from fairseq.data.options import LoaderOptions
from fairseq.data.update_iterator import UpdateIterator, sensible_workers

__all__ = ["EpochBatchIterator", "UpdateIterator", "sensible_workers"]

_DEFAULTS = LoaderOptions()
_BATCH_ORDER = 2  # third number of the key of the batches' order; the order of utterances has another


class EpochBatchIterator:
    """Epochs over a data set, for training or evaluation, sharded over ranks, resumable between any two updates.

    An update takes `num_shards * update_freq` real batches. Their order is a function of (seed, epoch) and that
    product, not of how it is split, and no batch is lost or met twice where a run is resumed with another product.

    Args:
        dataset: makes the batches.
        plan_fn: epoch -> the epoch's batches, the same on every rank.
        options: this process's share, and how batches are made ahead of time. With `evaluation` plans carry epoch 0, so
            that crops, masks and negatives are the same each time.
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
        self._resumed: UpdateIterator | None = None  # begun by load_state_dict, handed out by the next next_epoch_itr
        # [update size, batches] consumed of this epoch before the current iterator
        self._segments: list[list[int]] = []
        self._steps_before = 0
        self._sequence_length = 0  # batches that the current iterator began with
        self._updates_at_begin = 0  # updates of the epoch done before it

    # -- an epoch's plan -----------------------------------------------------------------------------------------------

    def update_size(self, epoch: int | None = None) -> int:
        """Real batches an update, over all ranks."""
        number = self.epoch if epoch is None else epoch
        return self.options.update_size(number)

    def _key(self, epoch: int) -> int:
        """The epoch that keys crops and masks."""
        return EVALUATION_EPOCH if self.options.evaluation else epoch

    def batches(self, epoch: int) -> Batches:
        """The epoch's batches; the last ones asked for are kept.

        Raises:
            ValueError: there is none, or there are fewer than processes and the data set cannot fill up.
        """
        if self._planned is None or self._planned[0] != epoch:
            made = self.plan_fn(self._key(epoch))
            if len(made) == 0:
                raise ValueError(
                    "the data set has no utterance left: check the manifest, task.min_sample_size and "
                    "task.max_sample_size"
                )
            if len(made) < self.options.num_shards and not self.dataset.makes_filler:
                raise ValueError(
                    f"the data set gives {len(made)} batches, too few for {self.options.num_shards} processes: lower "
                    "dataset.max_tokens or dataset.batch_size, or use fewer processes"
                )
            self._planned = (epoch, made)
        return self._planned[1]

    def total_samples(self, epoch: int) -> int:
        """Samples that an epoch holds, neither padding nor filler counted."""
        return self.dataset.total_samples(self.batches(epoch), epoch)

    def _remaining(self, epoch: int, shuffle: bool, segments: list[list[int]]) -> np.ndarray:
        """The epoch's batches that are not consumed yet, in the order of updates."""
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
        """An iterator over what is left of an epoch; without anything left, an exhausted one."""
        size = self.update_size(epoch)
        segments = [list(segment) for segment in segments]
        batches = self.batches(epoch)
        # same size: go on in the same order
        consumed = segments.pop()[1] if segments and segments[-1][0] == size else 0
        rest = self._remaining(epoch, shuffle, segments)
        sequence = update_order(rest, batches.buckets, size)[consumed:]
        shards, shard = self.options.num_shards, self.options.shard_id
        if self.options.skip_remainder_batch and len(sequence) >= size:
            sequence = sequence[: len(sequence) - len(sequence) % size]
        elif not self.dataset.makes_filler:
            sequence = sequence[: len(sequence) - len(sequence) % shards]
        self._segments = [*segments, [size, consumed]]
        self._sequence_length, self._updates_at_begin = len(sequence), updates_done
        plans = plans_of_rank(batches, sequence, size, shards, shard, self._key(epoch))
        total = math.ceil(len(sequence) / size)
        return UpdateIterator(self.dataset.collate_plan, plans, total, updates_done, self.options)

    @property
    def _active(self) -> UpdateIterator | None:
        """The current epoch's iterator; an exhausted one counts too, though its length is 0."""
        return self._current if self._current is not None else self._resumed

    # -- iterating -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Updates of the current epoch, those done included."""
        current = self._active
        return current.total if current is not None else math.ceil(len(self.batches(self.epoch)) / self.update_size())

    @property
    def first_batch(self) -> Batch:
        """A batch of this data, made here and now; for its shapes."""
        return self.dataset.collate_plan(self.batches(self.epoch).plan(0, self._key(self.epoch), 0))

    @property
    def n(self) -> int:
        """Updates done in the current epoch."""
        current = self._active
        return current.n if current is not None else 0

    @property
    def iterations_in_epoch(self) -> int:
        """Steps that this rank has done in the current epoch."""
        current = self._active
        return self._steps_before + (current.steps_done if current is not None else 0)

    @property
    def next_epoch_idx(self) -> int:
        """Number of the epoch that `next_epoch_itr` begins (or goes on with, after `load_state_dict`)."""
        return (
            self.epoch + 1
            if self._resumed is None and self._current is not None and self.end_of_epoch()
            else self.epoch
        )

    def end_of_epoch(self) -> bool:
        """Whether the epoch's updates have all been handed out."""
        return self._current is not None and not self._current.has_next()

    def next_epoch_itr(
        self, shuffle: bool = True, fix_batches_to_gpus: bool = False, set_dataset_epoch: bool = True
    ) -> UpdateIterator:
        """Begin the next epoch, or go on with the one that `load_state_dict` found.

        Args:
            shuffle: shuffle the batches; utterances are always shuffled within their length when batches are cut.
            fix_batches_to_gpus: only for fairseq's callers: the order does not depend on how many processes there are,
                so nothing is fixed.
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
        """Count the update that was handed out last as not done, so that `state_dict` stands before it. It is not
        handed out again.
        """
        if self._current is not None:
            self._current.n -= 1
            self._current.steps_done -= len(update)

    def close(self) -> None:
        """Let the workers of the current epoch go, wherever it stands."""
        for iterator in (self._current, self._resumed):
            if iterator is not None:
                iterator.close()

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, for `load_state_dict`; plain containers."""
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
        """Continue where a state stands: at the same real batch, also with another number of processes or another
        update_freq.

        A state of fairseq (version 1 or 2) counts steps of a rank; the number of ranks is then taken to be the same.

        Raises:
            ValueError: the epoch no longer has as many batches as when the state was saved.
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
                f"the checkpoint stands at batch {consumed} of {saved_total} of epoch {self.epoch}, which now has "
                f"{total} batches: the manifest or the batch settings (dataset.max_tokens, batch_size, "
                "task.max_sample_size ...) have changed since. Restore them, or begin the epoch anew with "
                "checkpoint.reset_dataloader=true"
            )
        if consumed >= total:  # it stood at the epoch's end
            self.epoch += 1
            self._steps_before = 0
            return
        self._resumed = self._begin(self.epoch, self.shuffle, segments, updates)
