"""Build the iterators of a run's data sets from its config, for training and for `fairseq-preflight`."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig

from fairseq.data.iterators import EpochBatchIterator, sensible_workers
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.device import Device
from fairseq.tasks.task import Task


def loader_options(cfg: DictConfig, device: Device, num_shards: int, shard_id: int) -> LoaderOptions:
    """Return the options with which process `shard_id` of `num_shards` loads batches for `device`."""
    return LoaderOptions(
        seed=cfg.common.seed,
        num_shards=num_shards,
        shard_id=shard_id,
        num_workers=sensible_workers(cfg.dataset.num_workers, cfg.distributed_training.nprocs_per_node),
        buffer_size=cfg.dataset.data_buffer_size,
        start_method=device.loader_start_method(),
        pin_memory=device.copies_from_pinned_memory,
    )


def training_iterator(cfg: DictConfig, task: Task, options: LoaderOptions, epoch: int = 1) -> EpochBatchIterator:
    """Iterate over the updates of the loaded training set, starting at this epoch (from 1).

    Raises:
        ValueError: the limits allow no batch.
    """
    options = replace(
        options,
        update_freq=tuple(cfg.optimization.update_freq),
        skip_remainder_batch=cfg.optimization.skip_remainder_batch,
    )
    return task.batch_iterator(
        task.dataset(cfg.dataset.train_subset), BatchLimits.of_training(cfg.dataset), options, epoch
    )


def validation_iterator(cfg: DictConfig, task: Task, subset: str, options: LoaderOptions) -> EpochBatchIterator:
    """Iterate over the batches of a loaded validation set; the same in every epoch.

    Raises:
        ValueError: an utterance is too long, or the limits allow no batch.
    """
    limits = BatchLimits.of_validation(cfg.dataset)
    return task.batch_iterator(task.dataset(subset), limits, replace(options, evaluation=True))
