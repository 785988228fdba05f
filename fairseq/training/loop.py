"""The training loop: `prepare` builds a `Run` from a config, and `Run.train` trains it epoch by epoch."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from fairseq import checkpoint_utils, tasks, utils
from fairseq import device as device_layer
from fairseq.checkpoint import update_size
from fairseq.checkpoint.remote import verify_store
from fairseq.checkpoint.run import start_of
from fairseq.checkpoint.source import Source
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.batch import Batch
from fairseq.data.batch_workers import WorkerDied
from fairseq.data.data_utils import raise_if_valid_subsets_unintentionally_ignored
from fairseq.dataclass.training_configs import valid_subsets
from fairseq.dataclass.utils import config_to_container
from fairseq.dataclass.validate import validate_config
from fairseq.distributed import progress, signals, strategy
from fairseq.distributed import utils as distributed
from fairseq.logging import metrics
from fairseq.logging.progress_bar import BaseProgressBar, Stats, Steps
from fairseq.logging.sinks import EPOCH, INTERVAL, Console, Start, open_sinks
from fairseq.models.wav2vec import codebook_use
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.training import shares
from fairseq.training.between_ranks import BetweenRanks
from fairseq.training.description import describe, describe_updates
from fairseq.training.doctor import open_doctor
from fairseq.training.host_load import LoadHint
from fairseq.training.measuring import Measure
from fairseq.training.records import Recorder
from fairseq.training.saves import Saves
from fairseq.training.sets import Sets
from fairseq.training.stopping import StopWish
from fairseq.training.trainer import Trainer

logger = logging.getLogger("fairseq_cli.train")  # fairseq: the name in its log lines

_MODEL = 0x30DE1  # the key of the initial weights' seed
_ANOTHERS = "a signal to another process"


class Stopped(Exception):
    """A signal asked the run to end, and it has been saved, unless checkpoint.no_save is set."""


def prepare(cfg: DictConfig, measure_of: Callable[[DictConfig], Measure | None] | None = None) -> Run:
    """Build everything before the first update: data, model, optimizer, and the checkpoint to resume from.

    Args:
        measure_of: opens what the config asks to be measured at each validation; None: nothing.
    """
    utils.import_user_module(cfg.common)
    for warning in validate_config(cfg, devices=device_layer.count(cfg.common)):
        if distributed.is_master():  # the same on every rank
            logger.warning(warning)
    if not cfg.checkpoint.no_save and distributed.is_master():
        checkpoint_utils.verify_checkpoint_directory(cfg.checkpoint.save_dir)
        verify_store(cfg.checkpoint)
    source = start_of(cfg.checkpoint)
    configured_update_freq = update_size.keep(cfg, source)
    metrics.reset()
    measure = None if measure_of is None else measure_of(cfg)
    raise_if_valid_subsets_unintentionally_ignored(cfg)
    logger.info("building the model")
    progress.doing("starting", "building the model")
    task = tasks.setup_task(cfg.task)
    utils.set_torch_seed(utils.keyed_seed(cfg.common.seed, _MODEL))  # the same initial weights on every rank
    with strategy.building(cfg.distributed_training):
        model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    for subset in valid_subsets(cfg.dataset):
        logger.info('reading the manifest of "%s" in %s', subset, cfg.task.data)
        progress.doing("starting", f'reading the manifest of "{subset}"')
        task.load_dataset(subset, combine=bool(cfg.dataset.combine_valid_subsets))
    trainer = Trainer(cfg, task, model, criterion)
    describe(trainer)
    run = Run(trainer, source, measure)
    trainer.run_record.configured_update_freq = configured_update_freq
    return run


class Run:
    """One run: train, validate, save and stop.

    The loop reads the device only at log intervals, before a checkpoint and at the end of an epoch.

    Args:
        source: the checkpoint to start from; None: find it.
        measure: gives further metrics to each validation of the first subset.
    """

    def __init__(self, trainer: Trainer, source: Source | None = None, measure: Measure | None = None) -> None:
        self.trainer = trainer
        self.measure = measure
        self.cfg = trainer.cfg
        self.task = trainer.task
        logger.info(
            'reading the manifest of "%s" in %s, and the checkpoint', self.cfg.dataset.train_subset, self.cfg.task.data
        )
        progress.doing("starting", "reading the training set's manifest and the checkpoint")
        self.extra_state, self.epoch_itr = checkpoint_utils.load_checkpoint(self.cfg.checkpoint, trainer, source)
        corpora = self.task.corpus_shares(self.cfg.dataset.train_subset)
        trainer.run_record.corpus_shares = {name: share.audio for name, share in corpora}
        self._continue_pretraining()
        self.console = Console(
            self.cfg.common, self.cfg.optimization.max_update, is_shown=trainer.is_data_parallel_master
        )
        start = self._start() if trainer.is_data_parallel_master else None
        self.recorder = Recorder(trainer, start)
        self.sinks = open_sinks(self.console, start)
        if start is not None:
            open_doctor(trainer, start, self.sinks)
        self.saves = Saves(trainer, self.epoch_itr)
        self.has_trained = False
        self.epochs_behind = 0  # 1 during the validation of an epoch's end that a resumed run catches up on
        self.waiting, self.interval_start, self.cpu_start = 0.0, time.perf_counter(), time.process_time()
        progress.of_this_process().spent()  # what came before does not count
        self.load_hint = LoadHint(
            trainer.device.type, self.cfg.distributed_training.nprocs_per_node, self.cfg.dataset.num_workers
        )
        self.sets = Sets(trainer, self.epoch_itr)
        self.recorder.begin(self.sets)
        interval = self.cfg.distributed_training.compare_ranks_interval
        self.between_ranks = BetweenRanks(trainer, interval)

    def _start(self) -> Start:
        """Describe for the sinks the update that the run starts or resumes from."""
        record = self.trainer.run_record
        return Start(
            self.cfg.common,
            Path(self.cfg.checkpoint.save_dir),
            self.trainer.get_num_updates(),
            continues=record.continues,
            again=valid_subsets(self.cfg.dataset) if record.validation_due else (),
            config=config_to_container(self.cfg),
        )

    def _continue_pretraining(self) -> None:
        """Continue the temperature schedule of an earlier pre-training, and log how its codebook fits the new audio."""
        trainer, model = self.trainer, self.trainer.unwrapped_model
        if not isinstance(model, Wav2Vec2Model):
            return
        before = trainer.run_record.updates_before
        if before > 0:
            model.updates_before = before
            model.set_num_updates(trainer.get_num_updates())
            logger.info("temperature schedule: continues at update %d of the earlier pre-training", before)
        begins = self.cfg.checkpoint.continue_pretraining and trainer.get_num_updates() == 0
        audio = self.task.dataset(self.cfg.dataset.train_subset)
        computes = trainer.is_data_parallel_master or not trainer.strategy.holds_all  # shards are only of use together
        if begins and computes and isinstance(audio, FileAudioDataset):
            codebook_use.report(model, audio, trainer.device, self.task.sample_rate, self.cfg.common.seed)

    # -- epochs --------------------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Train to the end; returns the exit status."""
        started = time.perf_counter()
        describe_updates(self.trainer, self.epoch_itr)
        max_epoch = self.cfg.optimization.max_epoch or math.inf
        try:
            over = self._catch_up_validation() or self.trainer.stopping.starts_out_of_time()
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
        if status == 0 and self.trainer.stopping.own is StopWish.COLLAPSE:  # on rank 0, which has the doctor
            return self.saves.after_collapse()
        if status == 0:
            logger.info(
                "done training in %.1f seconds, at update %d",
                time.perf_counter() - started,
                self.trainer.get_num_updates(),
            )
        return status

    def _stop_alone(self, error: Exception) -> NoReturn:
        """Save and end without the other processes, after a signal during a wait for a batch or another process.

        Raises:
            WaitEnded: always, after saving, so that this process does not wait for the others.
        """
        if not isinstance(error, signals.WaitEnded):
            logger.warning("%s", error)
        if self.trainer.data_parallel_world_size == 1:
            self._flush(hold=True)
        self.saves.save_alone()
        raise signals.WaitEnded(self.saves.after_signal(signals.received() or _ANOTHERS)) from error

    def close(self) -> None:
        """End the data-loading workers, and write pending metrics."""
        self.sets.close()
        self.sinks.close()

    def _learning_is_over(self) -> bool:
        if self.trainer.get_num_updates() > 0 and self.trainer.get_lr() <= self.cfg.optimization.stop_min_lr:
            logger.info("stopping: learning rate %g reached optimization.stop_min_lr", self.trainer.get_lr())
            return True
        return self.trainer.is_finished()

    def train_epoch(self) -> bool:
        """Train for one epoch, or the rest of it; returns whether the run is over."""
        updates = self.epoch_itr.next_epoch_itr(shuffle=True)
        self.trainer.lr_step_begin_epoch(self.epoch_itr.epoch)
        with metrics.aggregate(EPOCH), self._following(updates) as progress:
            # with checkpoint.reset_dataloader, or from older versions, the loaded sums belong to another epoch
            if updates.n == 0:
                metrics.reset_meters(EPOCH)
                self.trainer.forget_held_statistics()
            for samples in self._read(progress):
                self._update(samples)
                if self.validate_and_save(end_of_epoch=not updates.has_next()):
                    return True
        return False

    def _read(self, updates: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield the updates, and measure the time spent waiting for them.

        Raises:
            RunError: a file cannot be read, for example because it changed; names manifest and file.
        """
        ready, waiting = time.perf_counter(), iter(updates)
        while True:
            with self.sets.reading(self.cfg.dataset.train_subset) as quarantine:
                self.saves.in_training = next(waiting, None)
                for sample in self.saves.in_training or []:
                    quarantine.report(sample["quarantined"])
            if self.saves.in_training is None:
                return
            self.waiting += time.perf_counter() - ready
            yield self.saves.in_training
            ready = time.perf_counter()

    def _update(self, samples: list[Batch]) -> None:
        with metrics.aggregate(INTERVAL):
            metrics.log_start_time("train_wall", priority=800, round=0)
            self.trainer.train_step(samples)
            self.saves.in_training, self.saves.is_settled = None, False
            metrics.log_stop_time("train_wall")
        self._tell_first_update()
        if self.trainer.get_num_updates() % self.cfg.common.log_interval == 0:
            self._flush()
            self._write(INTERVAL, metrics.get_smoothed_values(INTERVAL))
            metrics.reset_meters(INTERVAL)
            self.load_hint.look()

    def _tell_first_update(self) -> None:
        """Log the first update: the first metrics may come many updates later."""
        if not self.has_trained:
            self.has_trained = True
            update, interval = self.trainer.get_num_updates(), self.cfg.common.log_interval
            logger.info(
                "finished update %d; metrics are logged every %d updates (common.log_interval)", update, interval
            )

    def _flush(self, hold: bool = False, compare: bool = False) -> None:
        """Read the device, on all processes, into the meters of this interval and this epoch.

        Args:
            hold: keep what was read for the next flush.
            compare: compare the parameters of all processes now, because a save may follow.
        Raises:
            FloatingPointError, RanksDiffer: on all processes; the run cannot continue.
        """
        if hold:
            self.trainer.flush_statistics(hold=True)
            if compare:
                self.between_ranks.compare(compare)
            return
        with metrics.aggregate(INTERVAL):
            elapsed = time.perf_counter() - self.interval_start
            worked = time.process_time() - self.cpu_start
            metrics.log_scalar("data_wait", 100 * self.waiting / elapsed, weight=elapsed, priority=810, round=1)
            metrics.log_scalar("host_cpu", 100 * worked / elapsed, weight=elapsed, priority=811, round=1)
            shares.log_times(elapsed)
            self.interval_start, self.waiting, self.cpu_start = time.perf_counter(), 0.0, time.process_time()
            self.trainer.flush_statistics()
            self.between_ranks.report_slowest()
            self.between_ranks.compare(compare)

    def _write(self, split: str, stats: Stats) -> None:
        row = {**stats, "wall": round(self.trainer.cumulative_training_time())}
        self.sinks.write(split, self.trainer.get_num_updates(), self.epoch_itr.epoch - self.epochs_behind, row)

    def _write_epoch(self) -> None:
        # first the codes, so that a sink finds them when it gets the row
        self.recorder.codes(EPOCH, self.epoch_itr.epoch - self.epochs_behind, metrics.get_meters(EPOCH))
        self._write(EPOCH, metrics.get_smoothed_values(EPOCH))

    def _following(self, steps: Steps, prefix: str | None = None) -> AbstractContextManager[BaseProgressBar]:
        """Show the progress through an epoch's updates or a validation's batches."""
        epoch = self.epoch_itr.epoch - self.epochs_behind
        return self.console.following(steps, epoch, self.trainer.get_num_updates(), prefix)

    # -- validation and checkpoints ------------------------------------------------------------------------------------

    def validate_and_save(self, end_of_epoch: bool) -> bool:
        """Validate and save after an update, where the config asks for it; returns whether the run is over.

        The epoch's row and the schedule's step come before the save: after a kill, a resumed run would not repeat them.

        Raises:
            Stopped: a signal asked the run to end, and it has been saved.
        """
        wish = self.trainer.stopping.agreed()
        finished = self.trainer.is_finished() or wish.ends_training
        save = finished or self._time_to_save(end_of_epoch)
        validate = self._time_to_validate(end_of_epoch, save, finished)
        if save or validate or end_of_epoch or wish is StopWish.SIGNAL:
            # on all processes, before anything that could fail on one of them
            self._flush(hold=not (save or validate or end_of_epoch), compare=True)
        if finished or end_of_epoch:
            self._write_epoch()
        if end_of_epoch:
            metrics.reset_meters(EPOCH)
        self.saves.is_settled = True
        if wish is StopWish.SIGNAL:
            self.trainer.run_record.validation_due = validate
            if end_of_epoch and not validate:  # else the step needs the loss: see _catch_up_validation
                self.trainer.lr_step(self.epoch_itr.epoch)
            self.saves.save(None, stopping=True)
            raise Stopped
        val_loss = self._validate_or_save() if validate else None
        out_of_patience = val_loss is not None and checkpoint_utils.out_of_patience(
            self.cfg.checkpoint, self.trainer, val_loss
        )
        if out_of_patience and not (finished or end_of_epoch):
            self._write_epoch()
        if end_of_epoch:
            self.trainer.lr_step(self.epoch_itr.epoch, val_loss)
        if save or out_of_patience:
            self.saves.save(val_loss)
        return finished or out_of_patience

    def _validate_or_save(self) -> float:
        """Validate. If that fails, save anyway; a resumed run then starts with this validation."""
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
        """Run the validation that was interrupted before the loaded checkpoint; returns whether patience is over."""
        record = self.trainer.run_record
        if not record.validation_due or self.cfg.dataset.disable_validation:
            return False
        self.epochs_behind = int(self.epoch_itr.n == 0)
        val_loss = self.validate()
        record.validation_due = False
        ended = self.epoch_itr.epoch - 1 if self.epochs_behind else None
        if ended is not None:
            self.epochs_behind = 0
            self.trainer.lr_step(ended, val_loss)
        over = checkpoint_utils.out_of_patience(self.cfg.checkpoint, self.trainer, val_loss)
        self.saves.save(val_loss, ended_epoch=ended)
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
            ValueError: the criterion does not log that metric.
        """
        with progress.within("validation"):
            results = [self._validate_subset(subset) for subset in self.sets.validation]
        name = self.cfg.checkpoint.best_checkpoint_metric
        if name not in results[0]:
            raise ValueError(
                f"checkpoint.best_checkpoint_metric={name} is not a validation metric. Use one of: "
                f"{', '.join(results[0])}."
            )
        return float(utils.item(results[0][name]))

    def _validate_subset(self, subset: str) -> Stats:
        logger.info('validation on "%s" after update %d', subset, self.trainer.get_num_updates())
        batches = self.sets.validation[subset].next_epoch_itr(shuffle=False)
        steps = self.cfg.dataset.max_valid_steps
        self.recorder.watch(subset)
        with self._following(batches, prefix=f"valid on '{subset}' subset") as progress:
            with metrics.aggregate(new_root=True) as aggregator:
                with self.sets.reading(subset) as quarantine:
                    sums = self.trainer.validate(
                        progress if steps is None else itertools.islice(progress, steps), quarantine
                    )
                self.task.reduce_metrics([sums], self.trainer.criterion)
                if self.measure is not None and subset == next(iter(self.sets.validation)):
                    for name, value in self.measure(self.trainer).items():
                        metrics.log_scalar(name, value, round=3)
            stats = aggregator.get_smoothed_values()
            self.recorder.codes(subset, self.epoch_itr.epoch - self.epochs_behind, aggregator)
            self.recorder.hypotheses(subset)
            self._write(subset, stats)
        return stats
