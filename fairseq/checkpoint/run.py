"""Resume a run: which checkpoint, what is restored from it, and what its run's other files lack."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

from fairseq.checkpoint import building, compare, io, remote
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.saver import RunTrainer, Saver
from fairseq.checkpoint.source import Source, find, optimizer_overrides
from fairseq.checkpoint.writing import SaveResult
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import restarts
from fairseq.distributed import utils as distributed

logger = logging.getLogger("fairseq.checkpoint_utils")  # fairseq: the name in its log lines


def save(
    cfg: CheckpointConfig,
    trainer: RunTrainer,
    epoch_itr: EpochBatchIterator,
    val_loss: float | None,
    stopping: bool = False,
) -> SaveResult | None:
    """Write the checkpoints that are due, and wait until they are written; see `Saver.begin`.

    Returns:
        None if this process does not write.
    """
    saver = Saver(cfg, trainer)
    saver.begin(epoch_itr, val_loss, stopping)
    return saver.finish()


def out_of_patience(cfg: CheckpointConfig, trainer: RunTrainer, val_loss: float) -> bool:
    """Whether the last checkpoint.patience validations, including this one, brought no better value."""
    trainer.run_record.observe(val_loss, trainer.get_num_updates())
    if not trainer.run_record.out_of_patience(cfg.patience):
        return False
    logger.info(f"early stop since valid performance hasn't improved for last {cfg.patience} runs")
    return True


def verify_folder(save_dir: str) -> None:
    """Create the folder and write a test file, so that a run fails at once rather than at its first save.

    Raises:
        ValueError: the folder cannot be created or written.
    """
    probe = os.path.join(save_dir, f".writable.{os.getpid()}")
    try:
        os.makedirs(save_dir, exist_ok=True)
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise ValueError(
            f"checkpoint.save_dir={save_dir} is not writable: {error.strerror or error}. Set a folder that this user "
            "can write."
        ) from error


# -- resuming ----------------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """A checkpoint in memory, and why it was chosen."""

    source: Source
    path: str
    state: dict[str, Any]

    @property
    def extra_state(self) -> dict[str, Any]:
        return self.state.get("extra_state") or {}

    @property
    def updates(self) -> int:
        history = self.state.get("optimizer_history") or [{}]
        return history[-1].get("num_updates", 0)

    @property
    def place(self) -> dict[str, Any] | None:
        """Its position in the training data; None: start at the first epoch."""
        return None if self.source.resets.dataloader else self.extra_state.get("train_iterator")


def start_of(cfg: CheckpointConfig) -> Source:
    """Complete or remove what a killed process left in `save_dir`, and find the checkpoint to start from (collective).

    Raises:
        ValueError: as `find`.
    """
    if distributed.is_master() and os.path.isdir(cfg.save_dir):
        io.remove_temporaries(cfg.save_dir)
    if cfg.store is not None:
        return _start_with_store(cfg)
    distributed.barrier()  # it may have put a checkpoint in place
    return find(cfg)


class _Start(NamedTuple):
    """What rank 0 has found, for the other processes."""

    source: Source | None
    updates: int  # of a checkpoint in save_dir
    problem: str = ""


def _start_with_store(cfg: CheckpointConfig) -> Source:
    """As `start_of`, with `checkpoint.store`: rank 0 decides, and each machine gets the checkpoint (collective)."""
    start = distributed.broadcast_object(_look_in_store(cfg) if distributed.is_master() else None)
    problem = start.problem
    if not problem and not distributed.is_master() and start.source.path is not None and start.updates >= 0:
        try:
            remote.bring_to_this_machine(cfg, start.source.path, start.updates)
        except (OSError, ValueError) as error:
            problem = f"rank {distributed.get_rank()}: {error}"
    problem = next(filter(None, distributed.all_gather_list(problem)), "")
    if problem:
        raise ValueError(problem)
    return start.source


def _look_in_store(cfg: CheckpointConfig) -> _Start:
    mirror = remote.Mirror(cfg)
    try:
        mirror.bring_newest()
        source = find(cfg)
        if not cfg.no_save and (unsent := mirror.send_rest()) is not None:
            logger.error(f"{unsent}. The next save uploads it.")
        inside = source.path is not None and os.path.dirname(source.path) == cfg.save_dir
        return _Start(source, io.peek(source.path).num_updates if inside and source.path is not None else -1)
    except (OSError, ValueError) as error:
        return _Start(None, -1, str(error))


def resume(
    cfg: CheckpointConfig, trainer: RunTrainer, found: Source | None = None, **passthrough_args: Any
) -> tuple[dict[str, Any] | None, EpochBatchIterator]:
    """Resume a run, or start it from `checkpoint.restore_file`, `finetune_from_model` or `continue_once`.

    One log line says which checkpoint was loaded.

    Args:
        cfg: the config group `checkpoint`.
        found: the result of `start_of`, if it is known.
        passthrough_args: further arguments for the trainer's `get_train_iterator`.
    Returns:
        the checkpoint's extra_state (None without a checkpoint), and the training iterator at its position.
    Raises:
        ValueError: settings are mutually exclusive, the file is missing or damaged, or the config differs from that in
            the run's own checkpoint.
    """
    overrides = optimizer_overrides(cfg)
    trainer.run_record.clear()
    found = start_of(cfg) if found is None else found
    if found.path is None:
        logger.info(found.note)
        if (restart := restarts.current.describe()) and trainer.is_data_parallel_master:
            logger.warning(f"{restart}: starts again at update 0")
        return None, trainer.get_train_iterator(epoch=1, load_dataset=True, **passthrough_args)
    loaded = Loaded(found, found.path, io.load(found.path, on_demand=not trainer.strategy.holds_all))
    with building.naming(found.path, "the run cannot resume from its entries"):
        epoch = 1 if loaded.place is None else loaded.place["epoch"]
        epoch_itr = trainer.get_train_iterator(epoch=epoch, load_dataset=True, **passthrough_args)
        _compare_configs(loaded, trainer)
        extra_state = _restore_training(loaded, trainer, overrides)
        _restore_record(loaded, trainer.run_record)
        if loaded.place is not None:
            epoch_itr.load_state_dict(loaded.place)
    if found.continues and trainer.is_data_parallel_master and not cfg.no_save:
        _complete_last_save(cfg, loaded, trainer.run_record, trainer.get_num_updates())
    if all(found.resets) and not found.own:
        trainer.run_record.updates_before = _updates_in_all(loaded) if cfg.continue_pretraining else 0
    logger.info(_what_was_loaded(loaded))
    if (restart := restarts.current.describe()) and trainer.is_data_parallel_master:
        logger.warning(f"{restart}: continues from update {loaded.updates}")
    return extra_state, epoch_itr


def _compare_configs(loaded: Loaded, trainer: RunTrainer) -> None:
    """Refuse a run's own checkpoint with another model or task config; log differences for other checkpoints.

    Call it after the training data is loaded: a moved data folder is not a difference if both manifests list the same
    files (decision 6).
    """
    same = compare.same_data(loaded.extra_state.get("data_fingerprint"), trainer.task.data_fingerprint())
    differing = compare.differences(loaded.state.get("cfg"), trainer.cfg, same_data=same is True)
    own, only_weights = loaded.source.own, all(loaded.source.resets)
    if differing and own and not only_weights:
        raise ValueError(compare.refusal(loaded.path, differing))
    if differing:
        logger.info(
            f"the config differs from that of {loaded.path} (checkpoint -> command): {compare.listing(differing)}"
        )
    if own and same is False and not only_weights:
        logger.warning(f"the manifests changed since {loaded.path} was written: training continues with the new files")


def _restore_training(loaded: Loaded, trainer: RunTrainer, overrides: dict[str, Any]) -> dict[str, Any]:
    """Load the state into the trainer and return its extra_state; the error for misfit weights names both models."""
    resets = loaded.source.resets
    try:
        return trainer.load_state_dict(
            loaded.state,
            reset_optimizer=resets.optimizer,
            reset_lr_scheduler=resets.lr_scheduler,
            reset_meters=resets.meters,
            optimizer_overrides=overrides,
        )
    except compare.WeightsDoNotFit as error:
        misfit = compare.misfit(loaded.path, loaded.source.note, loaded.state.get("cfg"), trainer.cfg, str(error))
        raise ValueError(misfit) from error


def _restore_record(loaded: Loaded, record: RunRecord) -> None:
    resets = loaded.source.resets
    record.load_state_dict(loaded.extra_state, reset_best=resets.optimizer or resets.meters)
    record.started_from = loaded.source.started_from or record.started_from
    record.continues = loaded.source.continues


def _complete_last_save(cfg: CheckpointConfig, loaded: Loaded, record: RunRecord, updates: int) -> None:
    """Write the other files of a save that a kill or a full disk interrupted.

    Otherwise checkpoint_best.pt would stay older than the run's record says.
    """
    path = loaded.path
    if not record.files or os.path.basename(path) != record.files[0]:
        return
    for name in record.files[1:]:
        other = os.path.join(cfg.save_dir, name)
        try:
            if os.path.exists(other) and io.verify(other) is None and io.peek(other).num_updates == updates:
                continue
            io.copy(path, other)
            logger.info(f"copied {path} to {other}, which the interrupted save did not write")
        except (OSError, ValueError) as error:
            logger.error(f"cannot copy {path} to {other}: {error}")


def _updates_in_all(loaded: Loaded) -> int:
    """Count the updates of a checkpoint's weights, including those of earlier pre-training."""
    return loaded.updates + RunRecord.updates_before_in(loaded.state)


def _what_was_loaded(loaded: Loaded) -> str:
    epoch = "" if loaded.place is None else f"epoch {loaded.place['epoch']}, "
    reset = loaded.source.resets.names()
    notes = [loaded.source.note] if loaded.source.note else []
    notes += [f"reset: {', '.join(reset)}"] if reset else []
    return f"loaded checkpoint {loaded.path} ({epoch}{loaded.updates} updates)" + "".join(f"; {note}" for note in notes)
