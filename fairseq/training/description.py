"""The log lines that describe a run before its first update."""

from __future__ import annotations

import logging

from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.update_size import beside_the_recipe, update_size
from fairseq.distributed import costs
from fairseq.distributed.data_parallel import ddp_settings
from fairseq.distributed.strategy import Flat, FullySharded
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")

PAPER_SECONDS_PER_UPDATE = 1.6 * 3600  # Baevski et al. 2020, section 4.2: 1.6 hours of audio a batch


def describe(trainer: Trainer) -> None:
    """Log model, devices and precision, before the first update."""
    for note in trainer.device.report() if trainer.is_data_parallel_master else []:
        logger.log(logging.WARNING if note.is_warning else logging.INFO, note.text)
    parameters = list(trainer.unwrapped_model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    logger.info(
        "model %s, %s parameters (%s trained), criterion %s",
        type(trainer.unwrapped_model).__name__.removeprefix("FSDP"),  # torch adds it to a sharded module's class
        f"{sum(p.numel() for p in parameters):,}",
        f"{trained:,}",
        type(trainer.criterion).__name__,
    )
    logger.info(
        "processes: %d, each on %s, in %s",
        trainer.data_parallel_world_size,
        trainer.device.describe(),
        trainer.precision.name(),
    )
    logger.info("strategy: %s", describe_strategy(trainer))


def cost_of(trainer: Trainer) -> costs.Costs:
    """Compute what the run's strategy costs each process."""
    cfg = trainer.cfg
    return costs.costs(
        costs.weights_of(trainer.unwrapped_model),
        cfg.distributed_training,
        trainer.data_parallel_world_size,
        max(cfg.optimization.update_freq),
        cfg.ema.store_ema,
        ddp_settings(cfg.distributed_training, trainer.device.ddp_options())["gradient_as_bucket_view"],
        keeps_casts=trainer.precision.dtype is not None and not cfg.model.get("checkpoint_activations"),
    )


def describe_strategy(trainer: Trainer) -> str:
    """Describe how the processes share the model, and what that costs each of them."""
    how = trainer.strategy.name
    if trainer.data_parallel_world_size == 1:
        asked = trainer.cfg.distributed_training.ddp_backend
        how = "one process"
        if asked in (Flat.name, FullySharded.name):
            how += f", which has nothing to share, so ddp_backend={asked} has no effect"
    return f"{how}; {cost_of(trainer)}"


def describe_updates(trainer: Trainer, training: EpochBatchIterator) -> None:
    """Log how much audio each update uses, compared with the paper's.

    Too little audio per update is the most common reason for a flat loss.

    Args:
        training: the training set's iterator.
    """
    cfg, task = trainer.cfg, trainer.task
    epoch, distributed_training = training.next_epoch_idx, cfg.distributed_training
    nodes = max(1, distributed_training.distributed_world_size // distributed_training.nprocs_per_node)
    size = update_size(cfg, distributed_training.distributed_world_size // nodes, nodes, epoch)
    samples = training.total_samples(epoch)
    updates = max(1, len(training))
    seconds = samples / task.sample_rate / updates
    for name, share in task.corpus_shares(cfg.dataset.train_subset):
        logger.info(
            "corpus %s: %.2f hours; %.1f %% of the audio and %.1f %% of the utterances of an epoch",
            name,
            share.hours,
            100 * share.audio,
            100 * share.utterances,
        )
    logger.info("%d updates per epoch, %.1f seconds of audio per update (%s)", updates, seconds, size.factors())
    if cfg.model.get("_name") != "wav2vec2":
        return
    logger.info("audio per update: %.2g of the paper's 1.6 hours", seconds / PAPER_SECONDS_PER_UPDATE)
    if trainer.device.compares_with_recipe and trainer.is_data_parallel_master:
        advice = beside_the_recipe(cfg, size, task.sample_rate)
        if advice is not None:
            logger.warning(advice)
