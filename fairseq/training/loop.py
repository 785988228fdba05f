"""The training loop: `prepare` builds a `Run` from a config, and `Run.train` takes it through its epochs."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from fairseq import checkpoint_utils, tasks, utils
from fairseq import device as device_layer
from fairseq.data.audio.quarantine import Quarantine
from fairseq.data.batch_workers import WorkerDied
from fairseq.data.data_utils import raise_if_valid_subsets_unintentionally_ignored
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.base import RunError
from fairseq.dataclass.update_size import beside_the_recipe, update_size
from fairseq.dataclass.validate import validate_config
from fairseq.distributed import signals
from fairseq.distributed import utils as distributed
from fairseq.logging import metrics, progress_bar, tensorboard
from fairseq.logging.metrics_file import MetricsFile
from fairseq.training import codebook_use
from fairseq.training.host_load import LoadHint
from fairseq.training.saves import Saves
from fairseq.training.trainer import StopWish, Trainer

logger = logging.getLogger("fairseq_cli.train")  # fairseq: the name in its log lines

_MODEL = 0x30DE1  # the key of the initial weights' seed
_ANOTHERS = "a signal to another process"
PAPER_SECONDS_PER_UPDATE = 1.6 * 3600  # Baevski et al. 2020, section 4.2: 1.6 hours of audio a batch


class Stopped(Exception):
    """A signal asked the run to end, and what there is to save is saved."""


def prepare(cfg: DictConfig) -> Run:
    """Everything before the first update: data, model, optimizer, and the checkpoint to continue from."""
    utils.import_user_module(cfg.common)
    for warning in validate_config(cfg, devices=device_layer.count(cfg.common)):
        if distributed.is_master():  # the others would say the same
            logger.warning(warning)
    if not cfg.checkpoint.no_save and distributed.is_master():
        checkpoint_utils.verify_checkpoint_directory(cfg.checkpoint.save_dir)
    metrics.reset()
    raise_if_valid_subsets_unintentionally_ignored(cfg)
    logger.info("building the model")
    task = tasks.setup_task(cfg.task)
    utils.set_torch_seed(utils.keyed_seed(cfg.common.seed, _MODEL))  # the same initial weights on every process
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    if not cfg.dataset.disable_validation:
        for subset in valid_subsets(cfg):
            logger.info('reading the manifest of "%s" in %s', subset, cfg.task.data)
            task.load_dataset(subset, combine=bool(cfg.dataset.combine_valid_subsets))
    trainer = Trainer(cfg, task, model, criterion)
    describe(trainer)
    return Run(trainer)


def valid_subsets(cfg: DictConfig) -> list[str]:
    return [name.strip() for name in cfg.dataset.valid_subset.split(",") if name.strip()]


def describe(trainer: Trainer) -> None:
    """What trains where, before the first update."""
    for note in trainer.device.report() if trainer.is_data_parallel_master else []:
        logger.log(logging.WARNING if note.is_warning else logging.INFO, note.text)
    parameters = list(trainer.unwrapped_model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    logger.info(
        "model %s, %s parameters (%s trained), criterion %s",
        type(trainer.unwrapped_model).__name__,
        f"{sum(p.numel() for p in parameters):,}",
        f"{trained:,}",
        type(trainer.criterion).__name__,
    )
    logger.info(
        "%d process(es), each on %s, in %s",
        trainer.data_parallel_world_size,
        trainer.device.describe(),
        trainer.precision.name(),
    )


class Run:
    """One run's way through epochs: train, validate, save, stop.

    The loop reads the device at log intervals, before a checkpoint and at the end of an epoch, and nowhere else.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.cfg = trainer.cfg
        self.task = trainer.task
        logger.info(
            'reading the manifest of "%s" in %s, and the checkpoint', self.cfg.dataset.train_subset, self.cfg.task.data
        )
        self.extra_state, self.epoch_itr = checkpoint_utils.load_checkpoint(self.cfg.checkpoint, trainer)
        self._continue_pretraining()
        self.metrics_file: MetricsFile | None = None
        if trainer.is_data_parallel_master:
            self.metrics_file = MetricsFile(Path(self.cfg.checkpoint.save_dir) / "metrics.jsonl")
            again = valid_subsets(self.cfg) if trainer.run_record.validation_due else []
            self.metrics_file.rewind(trainer.get_num_updates(), continues=trainer.run_record.continues, again=again)
        self.saves = Saves(trainer, self.epoch_itr)
        self.has_trained = False
        self.waiting, self.interval_start = 0.0, time.perf_counter()
        self.quarantines: dict[str, Quarantine] = {}
        self.valid_itrs: dict[str, EpochBatchIterator] = {}
        self.load_hint = LoadHint(
            trainer.device.type, self.cfg.distributed_training.nprocs_per_node, self.cfg.dataset.num_workers
        )
        self._open_sets()

    def _open_sets(self) -> None:
        """Cut the batches of all sets, and read one of each: else updates, or hours, may pass before a mistake is told.

        Raises:
            ValueError: a set gives no batch, or its first one cannot be read; names the manifest.
        """
        logger.info("cutting batches and reading the first ones")
        train, max_share = self.cfg.dataset.train_subset, self.task.cfg.max_quarantined_share
        try:
            self.quarantines[train] = Quarantine(len(self.task.dataset(train)), max_share)
            self.epoch_itr.batches(self.epoch_itr.next_epoch_idx)
            self.quarantines[train].report(self.epoch_itr.first_batch["quarantined"])
        except ValueError as error:
            raise ValueError(f"{self.task.split_source(train)}: {error}") from error
        for subset in [] if self.cfg.dataset.disable_validation else valid_subsets(self.cfg):
            self.quarantines.setdefault(subset, Quarantine(len(self.task.dataset(subset)), max_share))
            source = self.task.split_source(subset)
            try:
                self.valid_itrs[subset] = iterator = self.trainer.get_valid_iterator(subset)
                iterator.batches(iterator.epoch)
            except ValueError as error:
                limits = "validation has the limits dataset.max_tokens_valid and batch_size_valid"
                raise ValueError(f"{source}: {error} ({limits})") from error
            try:
                self.quarantines[subset].report(iterator.first_batch["quarantined"])
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error

    def _continue_pretraining(self) -> None:
        """Let temperatures go on from where the pre-training that this run continues ended; tell how its codebook
        fits the new audio.
        """
        trainer = self.trainer
        before = trainer.run_record.updates_before
        if before > 0 and hasattr(trainer.unwrapped_model, "updates_before"):
            trainer.unwrapped_model.updates_before = before
            trainer.unwrapped_model.set_num_updates(trainer.get_num_updates())
            logger.info("temperatures go on from update %d of the pre-training that is continued", before)
        if (
            self.cfg.checkpoint.continue_pretraining
            and trainer.get_num_updates() == 0
            and trainer.is_data_parallel_master
        ):
            dataset = self.task.dataset(self.cfg.dataset.train_subset)
            codebook_use.report(
                trainer.unwrapped_model, dataset, trainer.device, self.task.cfg.sample_rate, self.cfg.common.seed
            )

    # -- epochs --------------------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Train to the end; returns the exit status."""
        started = time.perf_counter()
        self._tell_audio_per_update()
        max_epoch = self.cfg.optimization.max_epoch or math.inf
        try:
            over = self._catch_up_validation() or self.trainer.starts_out_of_time()
            while not over and self.epoch_itr.next_epoch_idx <= max_epoch and not self._learning_is_over():
                over = self.train_epoch()
            self.saves.save_the_end()
        except Stopped:
            return self.saves.after_signal(signals.received() or _ANOTHERS)
        except Exception as error:
            waited_in_vain = isinstance(error, (signals.WaitEnded, WorkerDied, RuntimeError))
            if waited_in_vain and signals.received() and self.trainer.is_between_updates:
                self._stop_alone(error)
            self.saves.after_error(error, self._flush)
        finally:
            self.close()
        status = self.saves.at_the_end()
        if status == 0:
            logger.info(
                "done training in %.1f seconds, at update %d",
                time.perf_counter() - started,
                self.trainer.get_num_updates(),
            )
        return status

    def _stop_alone(self, error: Exception) -> NoReturn:
        """Save and end without the other processes: a batch did not come, or another process has ended, and a signal
        asked the run to end.

        Raises:
            WaitEnded: afterwards, so that nobody waits for the other processes.
        """
        if not isinstance(error, signals.WaitEnded):
            logger.warning("%s", error)
        if self.trainer.data_parallel_world_size == 1:
            self._flush(hold=True)
        self.saves.save_alone()
        raise signals.WaitEnded(self.saves.after_signal(signals.received() or _ANOTHERS)) from error

    def close(self) -> None:
        """Let the data-loading workers go: whatever ended the run, they must not outlive it."""
        for iterator in (self.epoch_itr, *self.valid_itrs.values()):
            iterator.close()
        tensorboard.close()

    def _tell_audio_per_update(self) -> None:
        """What an update learns from beside what the paper's did: too little audio an update is the commonest
        reason for a flat loss.
        """
        epoch, training = self.epoch_itr.next_epoch_idx, self.cfg.distributed_training
        nodes = max(1, training.distributed_world_size // training.nprocs_per_node)
        size = update_size(self.cfg, training.distributed_world_size // nodes, nodes, epoch)
        dataset = self.task.dataset(self.cfg.dataset.train_subset)
        samples = dataset.total_samples(self.epoch_itr.batches(epoch), epoch)
        updates = max(1, len(self.epoch_itr))
        seconds = samples / self.task.cfg.sample_rate / updates
        logger.info("%d updates an epoch, %.1f seconds of audio an update (%s)", updates, seconds, size.factors())
        if self.cfg.model.get("_name") == "wav2vec2":
            logger.info(
                "that is %.2g of the 1.6 hours that the paper's updates see", seconds / PAPER_SECONDS_PER_UPDATE
            )
        advice = beside_the_recipe(self.cfg, size, self.task.cfg.sample_rate) if self._compares_with_recipe() else None
        if advice is not None and distributed.is_master():
            logger.warning(advice)

    def _compares_with_recipe(self) -> bool:
        """Whether the published pre-training's updates say something about this run's."""
        return self.trainer.device.compares_with_recipe and self.cfg.model.get("_name") == "wav2vec2"

    def _learning_is_over(self) -> bool:
        if self.trainer.get_num_updates() > 0 and self.trainer.get_lr() <= self.cfg.optimization.stop_min_lr:
            logger.info("stopping: the learning rate %g is not above optimization.stop_min_lr", self.trainer.get_lr())
            return True
        return self.trainer.is_finished()

    def train_epoch(self) -> bool:
        """One epoch, or what is left of it; returns whether the run is over."""
        updates = self.epoch_itr.next_epoch_itr(shuffle=True)
        self.trainer.lr_step_begin_epoch(self.epoch_itr.epoch)
        progress = self._progress(updates)
        with metrics.aggregate("train"):
            # what was loaded may hold the sums of another epoch: checkpoint.reset_dataloader, or older versions
            if updates.n == 0:
                metrics.reset_meters("train")
                self.trainer.forget_held_statistics()
            for samples in self._read(progress):
                self._update(samples, progress)
                if self.validate_and_save(progress, end_of_epoch=not updates.has_next()):
                    return True
        return False

    def _read(self, updates: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        """The updates, as long as their files can be read.

        Raises:
            RunError: the user's mistake, such as a file that another program changed; names manifest and file.
        """
        subset = self.cfg.dataset.train_subset
        ready, waiting = time.perf_counter(), iter(updates)
        while True:
            try:
                self.saves.in_training = next(waiting, None)
                for sample in self.saves.in_training or []:
                    self.quarantines[subset].report(sample["quarantined"])
            except ValueError as error:
                raise self._mistake_in(subset, error) from error
            if self.saves.in_training is None:
                return
            self.waiting += time.perf_counter() - ready
            yield self.saves.in_training
            ready = time.perf_counter()

    def _mistake_in(self, subset: str, error: ValueError) -> RunError:
        """What is wrong with a data set, on one line that begins with its manifest; what already is the run's error
        stays as it is.
        """
        if isinstance(error, RunError):
            return error
        reason = "; ".join(line.strip() for line in str(error).rstrip(".").splitlines())
        return RunError(f"{self.task.split_source(subset)}: {reason}.")

    def _update(self, samples: list[dict[str, Any]], progress: Any) -> None:
        with metrics.aggregate("train_inner"):
            metrics.log_start_time("train_wall", priority=800, round=0)
            self.trainer.train_step(samples)
            self.saves.in_training = None
            metrics.log_stop_time("train_wall")
        self._tell_first_update()
        if self.trainer.get_num_updates() % self.cfg.common.log_interval == 0:
            self._flush()
            self._log("train_inner", metrics.get_smoothed_values("train_inner"), progress.log)
            metrics.reset_meters("train_inner")
            self.load_hint.look()

    def _tell_first_update(self) -> None:
        """Until the first metrics many updates may pass."""
        if not self.has_trained:
            self.has_trained = True
            update, interval = self.trainer.get_num_updates(), self.cfg.common.log_interval
            logger.info("update %d is done; metrics follow every %d updates (common.log_interval)", update, interval)

    def _flush(self, hold: bool = False) -> None:
        """Read the device, on all processes, into the meters of this interval and this epoch; `hold`: keep it for
        the next time.
        """
        if hold:
            self.trainer.flush_statistics(hold=True)
            return
        with metrics.aggregate("train_inner"):
            elapsed = time.perf_counter() - self.interval_start
            metrics.log_scalar("data_wait", 100 * self.waiting / elapsed, weight=elapsed, priority=810, round=1)
            self.interval_start, self.waiting = time.perf_counter(), 0.0
            self.trainer.flush_statistics()

    def _log(self, tag: str, stats: dict[str, Any], write: Callable[..., None]) -> None:
        stats["wall"] = round(self.trainer.cumulative_training_time())
        update = self.trainer.get_num_updates()
        write(stats, tag=tag, step=update)
        if self.metrics_file is not None:
            row = {key: utils.item(value) for key, value in stats.items()}
            self.metrics_file.append({"split": tag, "num_updates": update, "epoch": self.epoch_itr.epoch, **row})

    def _progress(self, updates: Iterable[Any], prefix: str | None = None) -> Any:
        common = self.cfg.common
        return progress_bar.progress_bar(
            updates,
            log_format=common.log_format if self.trainer.is_data_parallel_master else "none",
            log_interval=common.log_interval,
            log_file=common.log_file if self.trainer.is_data_parallel_master else None,
            epoch=self.epoch_itr.epoch,
            prefix=prefix,
            tensorboard_logdir=common.tensorboard_logdir if self.trainer.is_data_parallel_master else None,
            default_log_format="simple" if common.no_progress_bar else "tqdm",
            total_updates=self.cfg.optimization.max_update or None,
            start_update=self.trainer.get_num_updates(),
        )

    # -- validation and checkpoints ------------------------------------------------------------------------------------

    def validate_and_save(self, progress: Any, end_of_epoch: bool) -> bool:
        """What the config asks for after an update; returns whether the run is over.

        What a save must hold comes before it: the epoch's row, which nobody would write after a kill, and the
        schedule's step.

        Raises:
            Stopped: a signal came, and what there is to save is saved.
        """
        wish = self.trainer.should_stop()
        finished = self.trainer.is_finished() or wish is StopWish.TIME
        save = finished or self._time_to_save(end_of_epoch)
        validate = self._time_to_validate(end_of_epoch, save, finished)
        if save or validate or end_of_epoch or wish is StopWish.SIGNAL:
            # all processes together: what follows may fail on one of them
            self._flush(hold=not (save or validate or end_of_epoch))
        if finished or end_of_epoch:
            self._log("train", metrics.get_smoothed_values("train"), progress.print)
        if end_of_epoch:
            metrics.reset_meters("train")
        if wish is StopWish.SIGNAL:
            self.trainer.run_record.validation_due = validate
            if end_of_epoch and not validate:  # else the step waits for the loss: see _catch_up_validation
                self.trainer.lr_step(self.epoch_itr.epoch)
            self.saves.save(None, stopping=True)
            raise Stopped
        val_loss = self._validate_or_save() if validate else None
        out_of_patience = val_loss is not None and checkpoint_utils.out_of_patience(
            self.cfg.checkpoint, self.trainer, val_loss
        )
        if out_of_patience and not (finished or end_of_epoch):
            self._log("train", metrics.get_smoothed_values("train"), progress.print)
        if end_of_epoch:
            self.trainer.lr_step(self.epoch_itr.epoch, val_loss)
        if save or out_of_patience:
            self.saves.save(val_loss)
        return finished or out_of_patience

    def _validate_or_save(self) -> float:
        """Validate; what is trained is saved if that fails, whether it was due or not, and is validated first when
        the run goes on.
        """
        self.trainer.run_record.validation_due = True
        try:
            val_loss = self.validate()
        except signals.WaitEnded:  # train saves
            raise
        except Exception:
            self.saves.save_alone()
            raise
        self.trainer.run_record.validation_due = False
        return val_loss

    def _catch_up_validation(self) -> bool:
        """The validation that was due where the loaded checkpoint stands and did not come about; returns whether
        patience is over.
        """
        record = self.trainer.run_record
        if not record.validation_due or self.cfg.dataset.disable_validation:
            return False
        val_loss = self.validate()
        record.validation_due = False
        if self.epoch_itr.n == 0:  # it was the end of an epoch
            self.trainer.lr_step(self.epoch_itr.epoch - 1, val_loss)
        over = checkpoint_utils.out_of_patience(self.cfg.checkpoint, self.trainer, val_loss)
        self.saves.save(val_loss)
        return over

    def _time_to_save(self, end_of_epoch: bool) -> bool:
        update, checkpoint = self.trainer.get_num_updates(), self.cfg.checkpoint
        by_epoch = end_of_epoch and self.epoch_itr.epoch % checkpoint.save_interval == 0
        by_update = checkpoint.save_interval_updates > 0 and update % checkpoint.save_interval_updates == 0
        return by_epoch or (by_update and update >= self.cfg.dataset.validate_after_updates)

    def _time_to_validate(self, end_of_epoch: bool, save: bool, finished: bool) -> bool:
        update, dataset = self.trainer.get_num_updates(), self.cfg.dataset
        if dataset.disable_validation or (update < dataset.validate_after_updates and not finished):
            return False
        by_epoch = end_of_epoch and self.epoch_itr.epoch % dataset.validate_interval == 0
        by_update = dataset.validate_interval_updates > 0 and update % dataset.validate_interval_updates == 0
        return finished or by_epoch or by_update or (save and not end_of_epoch)

    def validate(self) -> float:
        """Validate on every subset; returns the first one's `checkpoint.best_checkpoint_metric`.

        Raises:
            ValueError: the criterion logs no such metric.
        """
        results = [self._validate_subset(subset) for subset in valid_subsets(self.cfg)]
        name = self.cfg.checkpoint.best_checkpoint_metric
        if name not in results[0]:
            raise ValueError(f"checkpoint.best_checkpoint_metric is {name}; validation gives {', '.join(results[0])}")
        return float(utils.item(results[0][name]))

    def _validate_subset(self, subset: str) -> dict[str, Any]:
        logger.info('validation on "%s" after update %d', subset, self.trainer.get_num_updates())
        batches: Iterable[Any] = self.valid_itrs[subset].next_epoch_itr(shuffle=False)
        steps = self.cfg.dataset.max_valid_steps
        progress = self._progress(batches, prefix=f"valid on '{subset}' subset")
        with metrics.aggregate(new_root=True) as aggregator:
            try:
                sums = self.trainer.validate(
                    progress if steps is None else itertools.islice(progress, steps), self.quarantines[subset]
                )
            except ValueError as error:
                raise self._mistake_in(subset, error) from error
            self.task.reduce_metrics([sums], self.trainer.criterion)
        stats = aggregator.get_smoothed_values()
        self._log(subset, stats, progress.print)
        return stats
