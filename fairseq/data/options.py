"""The settings of batches: what limits their size, and which of them a process loads in what way.

fairseq spells both as keyword arguments of `get_batch_iterator`; `keywords` gives them by those names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass.training_configs import DatasetConfig


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be, and how long an utterance."""

    max_tokens: int | None = None  # audio samples, padding included; None: no limit
    max_sentences: int | None = None  # utterances; None: no limit
    multiple: int = 1  # a batch of at least this many utterances has a multiple of it
    max_size: int | None = None  # samples of an utterance; None: any
    skip_longer: bool = True  # longer utterances are left out; False: they are an error

    @classmethod
    def of_training(cls, cfg: DatasetConfig) -> BatchLimits:
        """The limits of training batches in the config group `dataset`."""
        return cls(cfg.max_tokens, cfg.batch_size, cfg.required_batch_size_multiple)

    @classmethod
    def of_validation(cls, cfg: DatasetConfig) -> BatchLimits:
        """The limits of validation batches in the config group `dataset`."""
        return cls(
            cfg.max_tokens_valid,
            cfg.batch_size_valid,
            cfg.required_batch_size_multiple,
            skip_longer=cfg.skip_invalid_size_inputs_valid_test,
        )

    def check(self, longest: int) -> None:
        """Raise ValueError if no batch can be made of utterances of up to `longest` samples."""
        if self.max_tokens is None and self.max_sentences is None:
            raise ValueError(
                "neither dataset.max_tokens (audio samples a batch) nor dataset.batch_size (utterances a batch) is "
                "set: set one"
            )
        if self.max_sentences is not None and self.max_sentences < 1:
            raise ValueError(f"dataset.batch_size is {self.max_sentences}; it must be at least 1")
        if self.max_tokens is not None and longest > self.max_tokens:
            raise ValueError(
                f"dataset.max_tokens is {self.max_tokens}, but the longest utterance has {longest} samples after "
                f"task.max_sample_size: raise dataset.max_tokens, or set task.max_sample_size to {self.max_tokens} or "
                "less to crop"
            )

    def keywords(self) -> dict[str, Any]:
        """These limits as arguments of fairseq's `get_batch_iterator`."""
        return {
            "max_tokens": self.max_tokens,
            "max_sentences": self.max_sentences,
            "max_positions": self.max_size,
            "ignore_invalid_inputs": self.skip_longer,
            "required_batch_size_multiple": self.multiple,
        }


@dataclass(frozen=True)
class LoaderOptions:
    """Which share of an epoch's batches a process takes, and how it makes them ahead of time."""

    seed: int = 1  # with epoch and utterance, the key of order, crops and masks
    num_shards: int = 1  # processes that share the batches
    shard_id: int = 0  # the number of this one
    update_freq: tuple[int, ...] = (1,)  # batches per update and process, by epoch; the last is for all later ones
    evaluation: bool = False  # batches, crops, masks and negatives are the same each time; fairseq: shuffle=False
    skip_remainder_batch: bool = False  # leave out an epoch's last update if it has fewer batches than the others
    num_workers: int = 0  # processes that make batches; 0: they are made where they are asked for
    buffer_size: int = 0  # batches to make ahead
    start_method: str | None = None  # how workers start; None: fork
    pin_memory: bool = False  # copy batches to pinned memory, from which a CUDA device fetches them asynchronously

    def __post_init__(self) -> None:
        if not 0 <= self.shard_id < self.num_shards:
            raise ValueError(
                f"shard_id is {self.shard_id}; with {self.num_shards} shards it may be 0 to {self.num_shards - 1}"
            )

    def update_size(self, epoch: int) -> int:
        """Batches per update, over all processes, in this epoch (from 1)."""
        return self.num_shards * self.update_freq[min(epoch, len(self.update_freq)) - 1]

    def keywords(self) -> dict[str, Any]:
        """These options as arguments of fairseq's `get_batch_iterator`."""
        return {
            "seed": self.seed,
            "num_shards": self.num_shards,
            "shard_id": self.shard_id,
            "update_freq": list(self.update_freq),
            "shuffle": not self.evaluation,
            "skip_remainder_batch": self.skip_remainder_batch,
            "num_workers": self.num_workers,
            "data_buffer_size": self.buffer_size,
            "start_method": self.start_method,
            "pin_memory": self.pin_memory,
        }
