"""Destinations of a run's metrics: the console, `metrics.jsonl`, and the trackers TensorBoard, W&B and MLflow.

To add a destination, write its class here, or in a module of its own, with a function that opens it, registered with
`register_sink`, and add the field to `CommonConfig` that asks for it. The training loop does not change.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from fairseq.dataclass.common_config import CommonConfig
from fairseq.installed import advice
from fairseq.logging import destinations
from fairseq.logging.metrics_file import Json, MetricsFile
from fairseq.logging.progress_bar import BaseProgressBar, Stats, Steps, progress_bar
from fairseq.logging.trackers.mlflow_run import Mlflow
from fairseq.logging.trackers.queue import Queued, Tracker
from fairseq.logging.trackers.tensorboard import BoardTracker
from fairseq.logging.trackers.wandb_run import Wandb

logger = logging.getLogger(__name__)

# splits of rows that are not a validation's
INTERVAL = "train_inner"
EPOCH = "train"

# columns of rows that the console leaves out, so that its lines stay readable
NOT_ON_CONSOLE = frozenset(
    {
        *("time_forward", "time_backward", "time_exchange", "time_optimizer", "time_validate", "time_save"),
        *("padding", "masked_share", "blank_share"),
        *("host_gb", "device_gb", "graphs", "cpu_fallbacks"),
    }
)


class Sink(Protocol):
    """A destination of a run's metrics. Only the first process of a run has sinks, apart from its console.

    A destination that fails does not end the run: a sink may raise OSError, which `Sinks` reports once.
    """

    def write(self, split: str, update: int, epoch: int, stats: Stats) -> None:
        """Take one row.

        Args:
            split: INTERVAL, EPOCH, or the name of a validation set.
            update: number of updates done so far.
            epoch: the current epoch, from 1.
            stats: values by name, in the order in which a log line shows them.
        """
        ...

    def close(self) -> None:
        """Write what is pending. Called once, when the run ends, however it ends."""
        ...


@runtime_checkable
class FindingSink(Protocol):
    """A sink that also takes the doctor's findings."""

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        """Take a finding when the live doctor says it: the first time, and again when it has become worse.

        Args:
            update: number of updates done so far.
            finding: the fields of `fairseq.doctor.findings.Finding` by name.
        """
        ...


@dataclass(frozen=True)
class Start:
    """Where a run starts: what a sink needs to know when it opens.

    Args:
        save_dir: `checkpoint.save_dir`.
        update: the update that the run begins or resumes from. An earlier process may have written later rows.
        continues: earlier rows belong to this run; if false, they are another run's, and must be kept.
        again: splits whose rows of `update` itself will be written again.
        config: the run's whole config by group, as plain values.
    """

    common: CommonConfig
    save_dir: Path
    update: int
    continues: bool = True
    again: Collection[str] = ()
    config: Mapping[str, Json] = field(default_factory=dict)


Opener = Callable[[Start], "Sink | None"]
Check = Callable[[CommonConfig], "str | None"]


class Kind(NamedTuple):
    """A kind of destination that runs know."""

    open: Opener
    problem: Check


SINKS: dict[str, Kind] = {}


def register_sink(name: str, problem: Check = lambda common: None) -> Callable[[Opener], Opener]:
    """Decorate a function that opens a sink, or returns None if the config does not ask for it.

    Args:
        name: what error messages call the destination, such as the config field that asks for it.
        problem: says why the destination that the config asks for cannot be written; None if it can. Called before
            anything is built, so that a mistake costs no time.
    Raises:
        ValueError: the name is taken.
    """

    def register(opener: Opener) -> Opener:
        if name in SINKS:
            raise ValueError(f"the sink {name!r} is already registered")
        SINKS[name] = Kind(opener, problem)
        return opener

    return register


def problems(common: CommonConfig) -> list[str]:
    """List why destinations that the config asks for cannot be written."""
    found = (kind.problem(common) for kind in SINKS.values())
    return [problem for problem in found if problem is not None]


METRICS = "metrics.jsonl"


@register_sink(METRICS)
def open_metrics_file(start: Start) -> Sink:
    """`metrics.jsonl` in the folder of the checkpoints, without the rows that the run will write again."""
    file = MetricsFile(start.save_dir / METRICS)
    file.rewind(start.update, continues=start.continues, again=start.again)
    return file


# -- trackers ----------------------------------------------------------------------------------------------------------


def _queued(name: str, start: Start, make: Callable[[], Tracker]) -> Sink | None:
    """Put a queue and a thread in front of a tracker; None, and an error in the log, if its package is broken."""
    try:
        tracker = make()
    except Exception as error:  # any class: what a package raises that does not fit to another one
        logger.error("%s: cannot be used (%s: %s); training continues without it", name, type(error).__name__, error)
        return None
    return Queued(name, tracker, start.save_dir / METRICS)


def _tensorboard_problem(common: CommonConfig) -> str | None:
    folder = common.tensorboard_logdir
    reason = None if folder is None else destinations.problem_of_folder(folder)
    if reason is None:
        return None
    return f"common.tensorboard_logdir={folder} is not writable: {reason}. Set a folder that this user can write."


@register_sink("common.tensorboard_logdir", _tensorboard_problem)
def open_tensorboard(start: Start) -> Sink | None:
    """Scalars for TensorBoard; steps after `start.update` that an earlier process wrote are hidden."""
    folder = start.common.tensorboard_logdir
    if folder is None:
        return None
    return _queued("TensorBoard", start, lambda: BoardTracker(folder, start.update, start.config))


def _lacks(key: str, value: str, extra: str, package: str) -> str | None:
    """Say that the package of an extra is missing; None if it is there."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"common.{key}={value} needs the package {package}. Install it: {advice(extra)}. Or leave the key out."


def _wandb_problem(common: CommonConfig) -> str | None:
    return _lacks("wandb_project", common.wandb_project, "wandb", "wandb") if common.wandb_project else None


@register_sink("common.wandb_project", _wandb_problem)
def open_wandb(start: Start) -> Sink | None:
    """A run of Weights & Biases; a resumed run continues it."""
    project = start.common.wandb_project
    if not project:
        return None
    return _queued("W&B", start, lambda: Wandb(project, start.save_dir, start.config, start.continues))


def _mlflow_problem(common: CommonConfig) -> str | None:
    experiment = common.mlflow_experiment
    if not experiment:
        return None
    problem = _lacks("mlflow_experiment", experiment, "mlflow", "mlflow")
    # mlflow-skinny has no database, so it only works with a server
    if problem is None and "MLFLOW_TRACKING_URI" not in os.environ:
        problem = _lacks("mlflow_experiment", experiment, "mlflow", "sqlalchemy")
    return problem


@register_sink("common.mlflow_experiment", _mlflow_problem)
def open_mlflow(start: Start) -> Sink | None:
    """A run of MLflow; a resumed run continues it."""
    experiment = start.common.mlflow_experiment
    if not experiment:
        return None
    return _queued("MLflow", start, lambda: Mlflow(experiment, start.save_dir, start.config, start.continues))


class Console:
    """The run's progress and metrics in the log, in the format `common.log_format`, or as a bar on a terminal.

    Args:
        max_update: the run's last update, for the estimated time left; 0: not known.
        is_shown: processes other than the first show nothing.
    """

    def __init__(self, common: CommonConfig, max_update: int = 0, is_shown: bool = True) -> None:
        self._common = common
        self._max_update = max_update
        self._is_shown = is_shown
        self._bars: list[BaseProgressBar] = []  # the training epoch's, and a validation's inside it

    @contextmanager
    def following(
        self, steps: Steps, epoch: int | None = None, update: int = 0, prefix: str | None = None
    ) -> Iterator[BaseProgressBar]:
        """Show the progress through `steps` while they are iterated; rows written meanwhile appear with it.

        Args:
            steps: an epoch's updates, or a validation's batches.
            update: number of updates done before.
            prefix: what begins the lines, after the epoch.
        Returns:
            The same steps, to be iterated.
        """
        common = self._common
        bar = progress_bar(
            steps,
            log_format=common.log_format if self._is_shown else "none",
            log_interval=common.log_interval,
            log_file=common.log_file if self._is_shown else None,
            epoch=epoch,
            prefix=prefix,
            default_log_format="simple" if common.no_progress_bar else "tqdm",
            total_updates=self._max_update or None,
            start_update=update,
        )
        self._bars.append(bar)
        try:
            yield bar
        finally:
            self._bars.pop()

    def write(self, split: str, update: int, epoch: int, stats: Stats) -> None:
        bar = self._bars[-1]
        show = bar.log if split == INTERVAL else bar.print
        show({name: value for name, value in stats.items() if name not in NOT_ON_CONSOLE}, tag=split, step=update)

    def close(self) -> None:
        self._bars.clear()


class Sinks:
    """Several sinks as one. A sink that raises OSError is reported once, and the run continues.

    Args:
        sinks: by name.
    """

    def __init__(self, sinks: dict[str, Sink]) -> None:
        self._sinks = sinks
        self._failed: set[str] = set()

    def write(self, split: str, update: int, epoch: int, stats: Stats) -> None:
        for name, sink in self._sinks.items():
            with self._reporting(name):
                sink.write(split, update, epoch, stats)

    def add(self, name: str, sink: Sink) -> None:
        """Add a sink, which gets rows after the others."""
        self._sinks[name] = sink

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        """Hand a finding to the sinks that take findings."""
        for name, sink in self._sinks.items():
            if isinstance(sink, FindingSink):
                with self._reporting(name):
                    sink.finding(update, finding)

    def close(self) -> None:
        for name, sink in self._sinks.items():
            with self._reporting(name):
                sink.close()

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if name not in self._failed:
                self._failed.add(name)
                logger.error("cannot write %s: %s; training continues without it", name, error.strerror or error)


def open_sinks(console: Console, start: Start | None) -> Sinks:
    """The console, and all destinations that the config asks for.

    Args:
        start: None: only the console, as on processes other than the first.
    """
    opened: dict[str, Sink] = {"the console": console}
    if start is not None:
        for name, kind in SINKS.items():
            sink = kind.open(start)
            if sink is not None:
                opened[name] = sink
    return Sinks(opened)
