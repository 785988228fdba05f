"""Progress of a run: JSON lines, simple text lines, a tqdm bar or nothing; each also with TensorBoard."""

from __future__ import annotations

import json
import logging
import sys
import time
from argparse import Namespace
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Number
from typing import Any, Optional, Protocol

import torch

from fairseq.logging import destinations
from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter
from fairseq.logging.trackers import tensorboard

logger = logging.getLogger(__name__)

Stats = Mapping[str, Any]  # values by name: numbers, strings, one-element tensors, meters


class Steps(Protocol):
    """An iterable whose length is the number of items left."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


def progress_bar(
    iterator: Steps,
    log_format: Optional[str] = None,
    log_interval: int = 100,
    log_file: Optional[str] = None,
    epoch: Optional[int] = None,
    prefix: Optional[str] = None,
    aim_repo: Optional[str] = None,
    tensorboard_logdir: Optional[str] = None,
    default_log_format: str = "tqdm",
    wandb_project: Optional[str] = None,
    azureml_logging: bool = False,
    total_updates: Optional[int] = None,
    start_update: int = 0,
) -> BaseProgressBar:
    """Wrap an epoch's iterator in the bar that `common.log_format` asks for.

    Args:
        iterator: yields updates; its length is the number left, and `n`, if it has one, the number already done in
            this epoch.
        log_format: json, simple, tqdm or none; None means `default_log_format`. tqdm without a terminal becomes simple.
        log_interval: updates between lines.
        log_file: also write the lines there.
        tensorboard_logdir: also write scalars there, if the package tensorboard is installed.
        total_updates: the run's max_update, for the estimated time left (None or 0: not shown).
        start_update: updates of the run done before this bar.
    Raises:
        ValueError: an unknown format, or a logging service that bars do not write to.
    """
    services = {
        "common.aim_repo": aim_repo,
        "common.wandb_project": wandb_project,
        "common.azureml_logging": azureml_logging,
    }
    wanted = [key for key, value in services.items() if value]
    if wanted:
        raise ValueError(
            f"{', '.join(wanted)}: a progress bar does not write to this service. Use tensorboard_logdir here. Runs of "
            "fairseq-hydra-train write to W&B and MLflow (common.wandb_project, common.mlflow_experiment)."
        )
    log_format = log_format or default_log_format
    if log_format == "tqdm" and not sys.stderr.isatty():
        log_format = "simple"
    if log_format not in _FORMATS:
        raise ValueError(f"common.log_format is {log_format!r}, but must be one of: {', '.join(_FORMATS)}.")
    if log_file is not None:
        destinations.add_file(logger, log_file)
    bar: BaseProgressBar = _FORMATS[log_format](iterator, epoch, prefix, log_interval)
    if total_updates:
        bar.eta = EtaClock.of_run(total_updates)
        bar.eta.mark(start_update)
    return TensorboardProgressBarWrapper(bar, tensorboard_logdir, start_update) if tensorboard_logdir else bar


def build_progress_bar(
    args: Namespace,
    iterator: Steps,
    epoch: Optional[int] = None,
    prefix: Optional[str] = None,
    default: str = "tqdm",
    no_progress_bar: str = "none",
) -> BaseProgressBar:
    """Call `progress_bar` with the values of old command-line arguments.

    Args:
        args: may have no_progress_bar, log_format, log_interval, tensorboard_logdir and distributed_rank.
        default: the format if `args` has none.
        no_progress_bar: the format if `args.no_progress_bar` is set and `args` has no format.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    is_first = given.get("distributed_rank", 0) == 0
    return progress_bar(
        iterator,
        log_format=given.get("log_format"),
        log_interval=given.get("log_interval", 100),
        epoch=epoch,
        prefix=prefix,
        tensorboard_logdir=given.get("tensorboard_logdir") if is_first else None,
        default_log_format=no_progress_bar if given.get("no_progress_bar") else default,
    )


class EtaClock:
    """Time left to the run's last update, from the wall-clock rate over the latest marks.

    The rate includes validation and saving, because they recur.
    """

    _current: Optional[EtaClock] = None

    def __init__(self, total_updates: int, window: int = 50) -> None:
        self.total_updates = total_updates
        self._marks: deque[tuple[float, int]] = deque(maxlen=window)

    @classmethod
    def of_run(cls, total_updates: int) -> EtaClock:
        """Return the clock of the run with this many updates; epochs share it, since they may be short."""
        if cls._current is None or cls._current.total_updates != total_updates:
            cls._current = cls(total_updates)
        return cls._current

    def mark(self, update: int, now: Optional[float] = None) -> None:
        """Record that this many updates are done; `now` is in seconds of time.perf_counter."""
        if self._marks and update < self._marks[-1][1]:
            self._marks.clear()  # another run in the same process
        if not self._marks or update > self._marks[-1][1]:
            self._marks.append((time.perf_counter() if now is None else now, update))

    def seconds_left(self) -> Optional[float]:
        """Estimate the seconds left; None before the second mark."""
        if len(self._marks) < 2:
            return None
        (first_time, first), (last_time, last) = self._marks[0], self._marks[-1]
        return max(self.total_updates - last, 0) * (last_time - first_time) / (last - first)


def format_duration(seconds: float) -> str:
    """Format seconds as 2d03h, 4h05m, 6m07s or 8s."""
    minutes, seconds = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def format_stat(stat: Any) -> Any:
    """Format a number, meter or tensor for a log line as fairseq does, so that readers of its logs keep working."""
    if isinstance(stat, Number):
        return f"{stat:g}"
    if isinstance(stat, AverageMeter):
        return f"{stat.avg:.3f}"
    if isinstance(stat, TimeMeter):
        return f"{round(stat.avg):g}"
    if isinstance(stat, StopwatchMeter):
        return f"{round(stat.sum):g}"
    return stat.tolist() if torch.is_tensor(stat) else stat


@contextmanager
def rename_logger(log: logging.Logger, name: Optional[str]) -> Iterator[logging.Logger]:
    """Log under the name of what is reported (train_inner, train, valid) instead of this module's."""
    old_name = log.name
    log.name = name if name is not None else old_name
    try:
        yield log
    finally:
        log.name = old_name


class BaseProgressBar:
    """An iterable that also shows statistics: `log` within an epoch, `print` at its end."""

    eta: Optional[EtaClock] = None

    def __init__(
        self, iterable: Steps, epoch: Optional[int] = None, prefix: Optional[str] = None, log_interval: int = 1000
    ) -> None:
        self.iterable = iterable
        self.n = getattr(iterable, "n", 0)  # done in this epoch before a resume; plain lists do not have it
        self.epoch = epoch
        self.log_interval = log_interval
        self.i: Optional[int] = None
        self.size: Optional[int] = None
        parts = ([f"epoch {epoch:03d}"] if epoch is not None else []) + ([prefix] if prefix is not None else [])
        self.prefix = " | ".join(parts)

    def __len__(self) -> int:
        return len(self.iterable)

    def __enter__(self) -> BaseProgressBar:
        return self

    def __exit__(self, *exc: object) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        self.size = self.n + len(self.iterable)
        for i, item in enumerate(self.iterable, start=self.n):
            self.i = i
            yield item

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        """Show statistics within an epoch, if the log interval is over."""
        raise NotImplementedError

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        """Show statistics at the end of an epoch or validation."""
        raise NotImplementedError

    def update_config(self, config: dict[str, Any]) -> None:
        """Log the run's config, if the destination supports it."""

    def _due(self, step: Optional[int]) -> bool:
        step = step or self.i or 0
        return step > 0 and bool(self.log_interval) and step % self.log_interval == 0

    def _with_eta(self, stats: Stats, step: Optional[int]) -> Stats:
        if self.eta is None or step is None:
            return stats
        self.eta.mark(step)
        seconds = self.eta.seconds_left()
        return stats if seconds is None else {**stats, "eta": format_duration(seconds)}

    @staticmethod
    def _strings(stats: Stats) -> dict[str, str]:
        return OrderedDict((key, str(format_stat(value)).strip()) for key, value in stats.items())

    def _print_pipes(self, stats: Stats, tag: Optional[str]) -> None:
        values = " | ".join(f"{key} {value}" for key, value in self._strings(stats).items())
        with rename_logger(logger, tag):
            logger.info(f"{self.prefix} | {values}")


class JsonProgressBar(BaseProgressBar):
    """One JSON object per line; `update` is the epoch with its fraction."""

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        if not self._due(step):
            return
        line: dict[str, Any] = {}
        if self.epoch is not None:
            line["epoch"] = self.epoch
            if self.i is not None and self.size:
                line["update"] = round(self.epoch - 1 + (self.i + 1) / self.size, 3)
        self._info({**line, **{key: format_stat(value) for key, value in self._with_eta(stats, step).items()}}, tag)

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        line: dict[str, Any] = {} if self.epoch is None else {"epoch": self.epoch}
        start = "" if tag is None else f"{tag}_"
        self._info({**line, **{start + key: format_stat(value) for key, value in stats.items()}}, tag)

    @staticmethod
    def _info(line: Stats, tag: Optional[str]) -> None:
        with rename_logger(logger, tag):
            logger.info(json.dumps(line))


class NoopProgressBar(BaseProgressBar):
    """Shows nothing."""

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        pass

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        pass


class SimpleProgressBar(BaseProgressBar):
    """Plain lines, for logs without a terminal."""

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        if not self._due(step):
            return
        values = ", ".join(f"{key}={value}" for key, value in self._strings(self._with_eta(stats, step)).items())
        place = "" if self.i is None else f"  {self.i + 1:5d} / {self.size:d}"
        with rename_logger(logger, tag):
            logger.info(f"{self.prefix}:{place} {values}")

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._print_pipes(stats, tag)


class TqdmProgressBar(BaseProgressBar):
    """A bar on the terminal, and a line for each epoch's result."""

    def __init__(
        self, iterable: Steps, epoch: Optional[int] = None, prefix: Optional[str] = None, log_interval: int = 1000
    ) -> None:
        super().__init__(iterable, epoch, prefix, log_interval)
        from tqdm import tqdm

        quiet = logger.getEffectiveLevel() > logging.INFO
        total = self.n + len(iterable)  # type: ignore[arg-type]
        self.tqdm = tqdm(iterable, self.prefix, total=total, initial=self.n, leave=False, disable=quiet)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tqdm)

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self.tqdm.set_postfix(self._strings(self._with_eta(stats, step)), refresh=False)

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._print_pipes(stats, tag)


_FORMATS: dict[str, type[BaseProgressBar]] = {
    "json": JsonProgressBar,
    "simple": SimpleProgressBar,
    "tqdm": TqdmProgressBar,
    "none": NoopProgressBar,
}


class TensorboardProgressBarWrapper(BaseProgressBar):
    """A bar that also writes scalars to TensorBoard, one folder per tag (train_inner, train, valid)."""

    def __init__(self, wrapped_bar: BaseProgressBar, tensorboard_logdir: str, start_update: int = 0) -> None:
        self.wrapped_bar = wrapped_bar
        self.board = tensorboard.board(tensorboard_logdir, start_update)

    def __len__(self) -> int:
        return len(self.wrapped_bar)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.wrapped_bar)

    def log(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._write(stats, tag, step)
        self.wrapped_bar.log(stats, tag=tag, step=step)

    def print(self, stats: Stats, tag: Optional[str] = None, step: Optional[int] = None) -> None:
        self._write(stats, tag, step)
        self.wrapped_bar.print(stats, tag=tag, step=step)

    def update_config(self, config: dict[str, Any]) -> None:
        self.board.text("config", tensorboard.config_text(config))
        self.wrapped_bar.update_config(config)

    def _write(self, stats: Stats, tag: Optional[str], step: Optional[int]) -> None:
        update = stats["num_updates"] if step is None else step
        self.board.scalars(tag or "", tensorboard.scalars_of(stats), update)
