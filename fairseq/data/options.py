"""Batch settings: size limits, and which batches a process loads and how.

In fairseq, both are keyword arguments of `get_batch_iterator`; `keywords` returns them under those names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass.training_configs import DatasetConfig


@dataclass(frozen=True)
class BatchLimits:
    """Size limits of batches and utterances."""

    max_tokens: int | None = None  # audio samples, including padding; None: no limit
    max_sentences: int | None = None  # utterances; None: no limit
    multiple: int = 1  # a batch of at least this many utterances has a multiple of it
    max_size: int | None = None  # samples of an utterance; None: no limit
    skip_longer: bool = True  # skip longer utterances; False: raise an error

    @classmethod
    def of_training(cls, cfg: DatasetConfig) -> BatchLimits:
        """Return the limits of training batches in the config group `dataset`."""
        return cls(cfg.max_tokens, cfg.batch_size, cfg.required_batch_size_multiple)

    @classmethod
    def of_validation(cls, cfg: DatasetConfig) -> BatchLimits:
        """Return the limits of validation batches in the config group `dataset`."""
        return cls(
            cfg.max_tokens_valid,
            cfg.batch_size_valid,
            cfg.required_batch_size_multiple,
            skip_longer=cfg.skip_invalid_size_inputs_valid_test,
        )

    def check(self, longest: int) -> None:
        """Raise ValueError if utterances of up to `longest` samples do not fit into a batch."""
        if self.max_tokens is None and self.max_sentences is None:
            raise ValueError(
                "neither dataset.max_tokens (audio samples per batch) nor dataset.batch_size (utterances per batch) is "
                "set. Set at least one."
            )
        if self.max_sentences is not None and self.max_sentences < 1:
            raise ValueError(f"dataset.batch_size is {self.max_sentences}; it must be at least 1.")
        if self.max_tokens is not None and longest > self.max_tokens:
            raise ValueError(
                f"dataset.max_tokens is {self.max_tokens}, but the longest utterance has {longest} samples after "
                f"task.max_sample_size. Raise dataset.max_tokens, or set task.max_sample_size to at most "
                f"{self.max_tokens} to crop."
            )

    def keywords(self) -> dict[str, Any]:
        """Return these limits as arguments of fairseq's `get_batch_iterator`."""
        return {
            "max_tokens": self.max_tokens,
            "max_sentences": self.max_sentences,
            "max_positions": self.max_size,
            "ignore_invalid_inputs": self.skip_longer,
            "required_batch_size_multiple": self.multiple,
        }


@dataclass(frozen=True)
class LoaderOptions:
    """The share of an epoch's batches that a process loads, and its worker settings."""

    seed: int = 1  # with epoch and utterance, the key of order, crops and masks
    num_shards: int = 1  # processes that share the batches
    shard_id: int = 0  # index of this process
    update_freq: tuple[int, ...] = (1,)  # batches per update and process, by epoch; the last applies to later epochs
    evaluation: bool = False  # batches, crops, masks and negatives are the same each time; fairseq: shuffle=False
    skip_remainder_batch: bool = False  # drop an epoch's last update if it has fewer batches
    num_workers: int = 0  # worker processes; 0: load in the training process
    buffer_size: int = 0  # batches to prepare in advance
    start_method: str | None = None  # start method of workers; None: fork
    pin_memory: bool = False  # copy batches to pinned memory, for asynchronous transfer to a CUDA device

    def __post_init__(self) -> None:
        if not 0 <= self.shard_id < self.num_shards:
            raise ValueError(
                f"shard_id is {self.shard_id}; with num_shards={self.num_shards} it must be from 0 to "
                f"{self.num_shards - 1}."
            )

    def update_size(self, epoch: int) -> int:
        """Return the batches per update, over all processes, in an epoch (from 1)."""
        return self.num_shards * self.update_freq[min(epoch, len(self.update_freq)) - 1]

    def keywords(self) -> dict[str, Any]:
        """Return these options as arguments of fairseq's `get_batch_iterator`."""
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
