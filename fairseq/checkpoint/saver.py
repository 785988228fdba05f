"""Save a run: which files, in which order, and what stays right if one of them cannot be written.

Only `Saver` writes a run's checkpoints, and only it and `run.resume` update the run's `RunRecord`. The trainer defines
its own state (`state_dict`, `load_state_dict`), and its strategy defines how processes share that state.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from fairseq.checkpoint import atomic, io, remote, retention, sharded
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.writing import HostCopies, SaveResult, Writer, on_host
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.device import Device
from fairseq.distributed import progress
from fairseq.distributed import utils as distributed
from fairseq.distributed.strategy import Strategy
from fairseq.tasks.task import Task

logger = logging.getLogger("fairseq.checkpoint_utils")  # fairseq: the name in its log lines


class RunTrainer(Protocol):
    """The part of the trainer's interface that saving and resuming a run need."""

    @property
    def cfg(self) -> DictConfig: ...
    @property
    def task(self) -> Task: ...
    @property
    def device(self) -> Device: ...
    @property
    def strategy(self) -> Strategy: ...
    @property
    def run_record(self) -> RunRecord: ...
    @property
    def is_data_parallel_master(self) -> bool: ...

    before_step: Callable[[], None]
    """Called before an optimizer's step changes weights, averages and the optimizer's state."""

    def only_steps_change(self) -> Iterable[Tensor]:
        """Return the tensors of the state that nothing but an optimizer's step changes."""
        ...

    def get_num_updates(self) -> int: ...

    def get_train_iterator(self, epoch: int, load_dataset: bool = True) -> EpochBatchIterator: ...

    def state_dict(self) -> dict[str, Any]:
        """Return this process's state under fairseq's top-level keys; tensors may be shards, on any device."""
        ...

    def load_state_dict(
        self,
        checkpoint: dict[str, Any],
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        reset_meters: bool = False,
        optimizer_overrides: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Load a whole state on the CPU; returns its `extra_state`."""
        ...


class _Due(NamedTuple):
    """A save that has begun."""

    names: list[str]  # the one to resume from first
    updates: int
    epoch: int
    score: float | None
    best_before: float | None  # the record's saved_best, if this save does not get to checkpoint_best.pt
    stopping: bool
    start: float  # time.perf_counter


class Saver:
    """Save a run. Every process has one and saves at the same updates.

    With `checkpoint.async_save`, the state is copied and written while training continues. What a forward pass can
    change is copied at once, weights and the optimizer's state before the next step changes them (the trainer's
    `before_step`). There is never more than one write at a time.

    Args:
        cfg: the config group `checkpoint`.
    """

    def __init__(self, cfg: CheckpointConfig, trainer: RunTrainer) -> None:
        self.cfg = cfg
        self.trainer = trainer
        self._mirror = None if cfg.store is None or cfg.no_save else remote.Mirror(cfg)
        self._writer = Writer(in_background=cfg.async_save or cfg.write_checkpoints_asynchronously)
        self._due: _Due | None = None
        device = trainer.device
        self._copies = HostCopies(device.copies_from_pinned_memory, device.synchronize)
        if self._writer.in_background:
            trainer.before_step = self._wait_for_copies
        self._group: dist.ProcessGroup | None = None  # for exchanges of the processes' writers

    @property
    def in_background(self) -> bool:
        """Whether files are written while training continues."""
        return self._writer.in_background

    @property
    def is_writing(self) -> bool:
        """Whether a save that has begun is still being written."""
        return self._writer.is_writing

    def begin(
        self,
        epoch_itr: EpochBatchIterator,
        val_loss: float | None,
        stopping: bool = False,
        ended_epoch: int | None = None,
    ) -> None:
        """Begin to write the checkpoints that are due; `finish` waits for them and says what was written.

        All processes call it. With a strategy whose `holds_all` is true, rank 0 writes a file, and can also do so
        without the others. Else all processes write a folder together; see `sharded`.

        A failed write, for example on a full disk, is logged with its path and free space, and the run continues; older
        files stay intact.

        Args:
            val_loss: the best_checkpoint_metric of the validation at this update, or None.
            stopping: the run ends here, so a checkpoint is written even if none is due, unless `no_save` is set.
            ended_epoch: the checkpoints are those of the end of this epoch, though `epoch_itr` is at the next one.
        """
        assert self._due is None, "the last save has not been finished"
        cfg, trainer, record = self.cfg, self.trainer, self.trainer.run_record
        updates, epoch = trainer.get_num_updates(), ended_epoch or epoch_itr.epoch
        end_of_epoch = ended_epoch is not None or epoch_itr.end_of_epoch()
        if val_loss is not None:
            record.observe(val_loss, updates)
        if cfg.no_save:
            return
        is_best, best_before = record.is_best(val_loss), record.saved_best
        names: list[str] = []
        if trainer.is_data_parallel_master:  # what is due depends on the folder's files, which others may not see
            elsewhere = [] if self._mirror is None else self._mirror.names
            names = retention.checkpoint_names(
                cfg, epoch, updates, end_of_epoch, val_loss, is_best, stopping, self._ending, elsewhere
            )
        if not trainer.strategy.holds_all:
            names = distributed.broadcast_object(names)
        due = _Due(names, updates, epoch, val_loss, best_before, stopping, time.perf_counter())
        if names:
            record.files = names
            if is_best:
                record.saved_best = val_loss
        write = self._prepare(self._state_of(epoch_itr, val_loss), due)
        if write is not None or trainer.is_data_parallel_master:
            self._due = due
            self._writer.start(lambda: SaveResult([]) if write is None else self._run(write, due))

    def _wait_for_copies(self) -> None:
        if not self._copies.is_complete:
            progress.doing("saving", "copying the state")
            self._copies.wait()

    def finish(self) -> SaveResult | None:
        """Wait for the save that has begun, and return what it wrote; None if this process does not write.

        Raises:
            Exception: the write failed for another reason than the disk.
        """
        due, self._due = self._due, None
        start, waits = time.perf_counter(), self._writer.is_writing
        result = self._writer.wait()
        if due is None or result is None or not self.trainer.is_data_parallel_master:
            return None
        if waits:
            logger.info(
                f"waited {time.perf_counter() - start:.2f} seconds for the checkpoint of update {due.updates} to be "
                "written"
            )
        # checkpoint_best.pt is written after the one to resume from, so it may be missing
        if len(result.paths) < len(due.names):
            self.trainer.run_record.saved_best = due.best_before
        return result

    # -- this process's state, and how it is written -------------------------------------------------------------------

    @property
    def _ending(self) -> str:
        return retention.FILE if self.trainer.strategy.holds_all else retention.FOLDER

    def _state_of(self, epoch_itr: EpochBatchIterator, val_loss: float | None) -> dict[str, Any]:
        trainer = self.trainer
        state = trainer.state_dict()
        run = {"train_iterator": epoch_itr.state_dict(), "val_loss": val_loss, **trainer.run_record.state_dict()}
        return {**state, "extra_state": {**state["extra_state"], **run}}

    def _prepare(self, state: dict[str, Any], due: _Due) -> Callable[[str], str] | None:
        """Copy to the host what this process writes; weights and the like are copied by `_run`.

        Returns:
            a function that writes it to a path, together with the other processes if each has a part; None if this
            process writes nothing.
        """
        if not due.names:
            return None
        if self.trainer.strategy.holds_all:
            if not self.trainer.is_data_parallel_master:
                return None
            whole = self._to_host(state)
            return lambda path: io.save(whole, path)
        if self._group is None:
            seconds = self.trainer.cfg.distributed_training.distributed_timeout
            self._group = distributed.open_saving_group(timedelta(seconds=seconds))
        mine = sharded.local(state, self.trainer.is_data_parallel_master, self._to_host)
        return lambda path: sharded.write(mine, path, self._group)

    def _to_host(self, state: Any) -> Any:
        if not self._writer.in_background:  # training waits, so the state can be written from where it is
            return on_host(state)
        return self._copies.copy(state, self.trainer.only_steps_change())

    # -- what the writer does ------------------------------------------------------------------------------------------

    def _run(self, write: Callable[[str], str], due: _Due) -> SaveResult:
        """Write the first checkpoint, and on rank 0 everything that depends on it."""
        self._copies.complete()
        cfg = self.cfg
        paths = [os.path.join(cfg.save_dir, name) for name in due.names]
        result = _write_all(write, paths, is_first=self.trainer.is_data_parallel_master)
        result = result._replace(seconds=time.perf_counter() - due.start, updates=due.updates)
        if not self.trainer.is_data_parallel_master:
            return result
        for path in result.paths:  # of an earlier save: another strategy's, or made of its shards
            atomic.remove(retention.other_form(path))
        if result.paths and cfg.consolidate == "always":
            result = result._replace(error=result.error or consolidate(result.paths))
        if result.error is not None:
            outlook = "Older checkpoints are intact" + ("." if due.stopping else "; training continues.")
            logger.error(f"{result.error} ({_free_space(cfg.save_dir)}). {outlook}")
        if result.paths:
            _remove_outdated(cfg)
            logger.info(
                f"Saved checkpoint {result.paths[0]} (epoch {due.epoch} @ {due.updates} updates, score {due.score}) "
                f"(writing took {result.seconds:.2f} seconds)"
            )
            result = result._replace(unsent=self._upload(result.paths, due))
        return result

    def _upload(self, paths: list[str], due: _Due) -> str | None:
        """Upload a save to `checkpoint.store`, if there is one; returns what is not there, and why."""
        if self._mirror is None:
            return None
        start = time.perf_counter()
        unsent = self._mirror.push(paths, due.updates, due.stopping)
        if self.cfg.consolidate == "always":
            for path in _consolidated(paths):
                unsent = self._mirror.push([path], due.updates, due.stopping)
        if unsent is None:
            logger.info(
                f"uploaded {os.path.basename(paths[0])} (update {due.updates}) to {self.cfg.store} in "
                f"{time.perf_counter() - start:.2f} seconds"
            )
            return None
        outlook = "" if due.stopping else " Training continues, and the next save uploads it."
        logger.error(f"{unsent}{outlook}")
        return str(unsent)

    def send_rest(self) -> str | None:
        """Upload what an earlier save could not, at the end of the run; returns what is not in the store, and why."""
        if self._mirror is None or not self.trainer.is_data_parallel_master:
            return None
        unsent = self._mirror.send_rest(stopping=True)
        return None if unsent is None else str(unsent)

    def consolidate_the_end(self) -> None:
        """Write the last and the best sharded checkpoint of a finished run as one file each, if that is not done.

        `checkpoint.consolidate` can switch it off. Rank 0 does it, while the other processes wait.
        """
        cfg = self.cfg
        if self.trainer.strategy.holds_all or not self.trainer.is_data_parallel_master:
            return
        if cfg.consolidate == "never" or cfg.no_save:
            return
        names = [retention.last_name(cfg, retention.FOLDER), retention.best_name(cfg, retention.FOLDER)]
        if self._mirror is not None:  # the best one may be of an earlier process on another machine
            for name in names:
                self._mirror.bring(name)
        error = consolidate([path for name in names if os.path.isdir(path := os.path.join(cfg.save_dir, name))])
        if error is not None:
            logger.error(f"{error} ({_free_space(cfg.save_dir)}). Run fairseq-consolidate later.")
        elif self._mirror is not None:
            for path in _consolidated([os.path.join(cfg.save_dir, name) for name in names]):
                self._mirror.push([path], io.peek(path).num_updates)  # `send_rest` reports what fails


def _write_all(write: Callable[[str], str], paths: list[str], is_first: bool) -> SaveResult:
    """Write a checkpoint to the first path, and on rank 0 copy it to the others."""
    written: list[str] = []
    try:
        if is_first:
            os.makedirs(os.path.dirname(paths[0]) or ".", exist_ok=True)
        written.append(write(paths[0]))
        for path in paths[1:] if is_first else []:
            written.append(io.copy(paths[0], path))
    except OSError as error:
        return SaveResult(written, f"cannot write checkpoint {paths[len(written)]}: {error.strerror or error}")
    return SaveResult(written)


def consolidate(folders: list[str]) -> str | None:
    """Write sharded checkpoints as one file each, unless a file of that name has as many updates.

    Returns:
        the error of the first that cannot be written; None if there was none.
    """
    for folder in folders:
        path = folder.removesuffix(retention.FOLDER) + retention.FILE
        try:
            if not os.path.exists(path) or io.peek(path).num_updates != io.peek(folder).num_updates:
                io.consolidate(folder, path)
                logger.info(f"wrote {folder} as one file, {path}")
        except (OSError, ValueError) as error:
            return f"cannot write {folder} as one file, {path}: {getattr(error, 'strerror', None) or error}"
    return None


def _consolidated(paths: list[str]) -> list[str]:
    """List the files that `consolidate` wrote for these checkpoints."""
    files = [path.removesuffix(retention.FOLDER) + retention.FILE for path in paths if path.endswith(retention.FOLDER)]
    return [file for file in files if os.path.exists(file)]


def _remove_outdated(cfg: CheckpointConfig) -> None:
    for path in retention.outdated(cfg):
        atomic.remove(path)


def _free_space(folder: str) -> str:
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder) or "."
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free in {folder}"
