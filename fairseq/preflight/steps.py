"""Steps of a run without a card: on the CPU for the HPU's operators, on torch's lazy device for its graphs."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from fairseq import device as device_layer
from fairseq import tasks, utils
from fairseq.data.batch import Batch
from fairseq.device.graph_counts import READS, CutFinder, GraphCounts, graph_counts
from fairseq.device.stand_in import StandIn
from fairseq.logging import metrics
from fairseq.preflight import graph_keys, operators, plan, tiny
from fairseq.preflight.graph_keys import Call, Change, Compiled, Recorder
from fairseq.preflight.operators import Trace
from fairseq.preflight.plan import Launch, Shape, Split
from fairseq.training.trainer import Trainer

WARM_UP = 2  # visits of a shape that may compile: the first, and the one after the optimizer's state is created
VISITS = 3
UPDATES = 12  # watched for numbers that change


class Twin:
    """A small twin of the run: its trainer on one device, and the run's shapes to step through."""

    def __init__(self, cfg: DictConfig, device: str, full: bool) -> None:
        self.full = full
        self.cfg = tiny.twin(cfg, device, narrow=not full)
        self.task = tasks.setup_task(self.cfg.task)
        utils.set_torch_seed(self.cfg.common.seed)
        model = self.task.build_model(self.cfg.model)
        self.trainer = Trainer(self.cfg, self.task, model, self.task.build_criterion(self.cfg.criterion))
        self.splits = {split.name: split for split in plan.load(self.cfg, self.task, Launch(1, 1))}
        for split in self.splits.values():
            tiny.hear_noise(split)
        self.micro_batches = min(2, max(self.cfg.optimization.update_freq))

    def samples(self, shape: Shape, num_valid: tuple[int, ...] = ()) -> list[Batch]:
        """Make the micro-batches of an update, all of this shape; for validation, one batch.

        Args:
            num_valid: utterances of each, the other rows being filler; empty: as in the run's plan.
        """
        split: Split = self.splits[shape.split]
        plans = [shape.plan._replace(micro=n) for n in range(self.micro_batches if shape.training else 1)]
        if not self.full:
            plans = [tiny.few_rows(plan, *num_valid[plan.micro : plan.micro + 1]) for plan in plans]
        return [tiny.batch(split, plan) for plan in plans]

    def step(self, shape: Shape, samples: list[Batch]) -> None:
        if shape.training:
            self.trainer.train_step(samples)
        else:
            self.trainer.validate([samples])


@contextmanager
def quietly(threads: int | None = 1) -> Iterator[None]:
    """Suppress log lines and warnings of steps that only serve tracing, and set the threads (None: unchanged)."""
    before, threads_before = logging.root.manager.disable, torch.get_num_threads()
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads or threads_before)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        torch.set_num_threads(threads_before)


# -- operators ---------------------------------------------------------------------------------------------------------


class Watch:
    """Compile, by the bridge's rule, what a twin runs, and note graphs that are new after the first visits."""

    def __init__(self) -> None:
        self.compiled = Compiled()
        self.recorder = Recorder(self._ended)
        self.changes: dict[tuple[str, str], list[Change]] = {}  # by operator and place
        self._visits: Counter[Any] = Counter()
        self._settled = False

    @contextmanager
    def visit(self, what: Any) -> Iterator[None]:
        """Run a visit of `what` (a hashable name) within the context; only its first visits may compile graphs."""
        self.recorder.cut()
        self._settled = self._visits[what] >= WARM_UP
        self._visits[what] += 1
        yield
        self.recorder.cut()

    def _ended(self, calls: list[Call]) -> None:
        change = self.compiled.add(calls)
        if change is not None and self._settled:
            self.changes.setdefault((change.operator, change.place), []).append(change)


def trace_operators(cfg: DictConfig, shapes: list[Shape]) -> tuple[Trace, Watch]:
    """Trace the operators of an update and a validation step on the HPU's branches, and the graphs of 12 updates.

    Between the updates, everything changes that changes in a run: temperature, learning rate, number of utterances,
    shape, epoch; a log line follows some of them. If the run unfreezes its encoder, 12 updates from there are watched
    too.
    """
    training = [shape for shape in shapes if shape.training][:2]
    validation = next((shape for shape in shapes if not shape.training), None)
    watch = Watch()
    stand_in = StandIn(lives_on=graph_keys.CARD, on_mark_step=watch.recorder.cut)
    with (
        quietly(),
        device_layer.stood_in(stand_in),
        metrics.aggregate(new_root=True),
        operators.tracing(recorder=watch.recorder),
    ):
        twin = Twin(cfg, "cpu", full=False)
        unfreezes = int(twin.cfg.model.get("freeze_finetune_updates") or 0)
        for start in sorted({0, unfreezes}):
            twin.trainer.set_num_updates(start)
            _updates(twin, watch, training, validation)
        with operators.tracing() as trace:
            twin.step(training[0], twin.samples(training[0]))
            if validation is not None:
                twin.step(validation, twin.samples(validation))
    return trace, watch


def _updates(twin: Twin, watch: Watch, training: list[Shape], validation: Shape | None) -> None:
    trainer, start = twin.trainer, twin.trainer.get_num_updates()
    # utterances of two micro-batches; the first two visits of each shape have the same numbers
    counts = [(1, 1), (2, 1), (2, 2)]
    batches = {(shape.key, valid): twin.samples(shape, valid) for shape in training for valid in counts}
    for number in range(UPDATES):
        shape = training[number % len(training)]
        trainer.optimizer.set_lr(trainer.get_lr() * 0.99)
        with watch.visit((start, shape.key)):
            twin.step(shape, batches[shape.key, counts[number * len(counts) // UPDATES]])
        if number % 3 == 2:
            with watch.visit("log"):
                trainer.flush_statistics()
        if validation is not None and number % 4 == 3:
            with watch.visit("validation"):
                twin.step(validation, twin.samples(validation, (1 + number % 8 // 4,)))
        if number == UPDATES // 2:
            trainer.lr_step(1)
            trainer.lr_step_begin_epoch(2)


# -- graphs ------------------------------------------------------------------------------------------------------------


class Graphs(NamedTuple):
    """What the lazy device did."""

    compiled: dict[str, int]  # mode (training, validation) -> graphs, all visits
    again: dict[str, int]  # shape -> graphs compiled after its first visits, if any
    updates: int  # watched, after the first visits
    reads: Counter[str]  # `operator at file:line`, in the watched updates
    fallbacks: dict[str, int]  # operators that torch's lazy backend ran directly
    only_here: Counter[str]  # where it did, as `operator at file:line`


def run_graphs(cfg: DictConfig, shapes: list[Shape], full: bool) -> Graphs:
    """Visit every shape a few times in turn, as training does."""
    compiled: dict[str, int] = {}
    again: dict[str, int] = {}
    reads: Counter[str] = Counter()
    only_here: Counter[str] = Counter()
    watched = 0
    with quietly(None if full else 1):
        twin = Twin(cfg, "lazy", full)
        batches = {shape.key: twin.samples(shape) for shape in shapes}
        settled = graph_counts()
        for visit in range(VISITS):
            if visit == WARM_UP:
                settled = graph_counts()
            for shape in shapes:
                before = graph_counts()
                if visit >= WARM_UP and shape.training:
                    with CutFinder() as finder:
                        twin.step(shape, batches[shape.key])
                    watched += 1
                    for place, times in finder.places.items():
                        found = only_here if place.fell_back and place.operator not in READS else reads
                        found[f"{place.operator} at {operators.shown_place(place.file, place.line)}"] += times
                else:
                    twin.step(shape, batches[shape.key])
                new = graph_counts().since(before).compiled
                mode = "training" if shape.training else "validation"
                compiled[mode] = compiled.get(mode, 0) + new
                if visit >= WARM_UP and new:
                    name = f"{mode} {shape.rows} x {shape.samples:,}"
                    again[name] = again.get(name, 0) + new
        counts: GraphCounts = graph_counts().since(settled)
    return Graphs(compiled, again, watched, reads, counts.fallbacks, only_here)


def supported() -> bool:
    """Whether this torch has a lazy-tensor backend."""
    return hasattr(torch._C, "_lazy_ts_backend")
