"""The recipe's config on the lazy-tensor device: graphs compiled and when, what cuts them, and the run as a user
types it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import fairseq_cli.train
from fairseq.device import graph_counts as counting
from fairseq.device.graph_counts import Cut, CutFinder, GraphCounts, graph_counts
from fairseq.logging.metrics_file import read_rows
from fairseq.trainer import Trainer
from tests.integration.conftest import Workplace
from tests.integration.hpu_recipe import recipe, write_corpus

pytestmark = pytest.mark.needs("lazy")

BUCKETS = 7
SMALLER = {"encoder_layers": 1, "conv_feature_layers": "[(16,10,5)] + [(16,8,8)] * 2"}
PARTS = {"train_step": "update", "validate": "validation", "flush_statistics": "log step", "state_dict": "checkpoint"}
CONSTANT = {
    # update 0's, before the optimizer first wrote the weights: torch's backend then sees them through a view
    "update: micro-batch": 1,
    "update: optimizer": 2,  # making its state, and from then on
    "update: between": 2,  # gradients set to zero: made in update 0, there from then on
    "validation: between": 1,
    "validation: reading": 1,
    "log step: reading": 1,
    "log step: after": 1,  # sums set to zero
}


class Event(NamedTuple):
    """One call of a part of the run."""

    part: str
    shapes: tuple[tuple[int, int], ...]  # of an update's micro-batches, B x S
    counts: GraphCounts


class Recorder:
    """Counts what each part of a run does, and names its new graphs by what they compute."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self.new_graphs: Counter[str] = Counter()
        self.places: Counter[Cut] = Counter()  # of what cut an update
        for name, part in PARTS.items():
            patch.setattr(Trainer, name, self._recording(getattr(Trainer, name), part))
        patch.setattr(counting, "counted_step", self._naming(counting.counted_step))

    def _recording(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def recorded(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            before, at_steps = graph_counts(), self.new_graphs.total()
            if part != "update":
                result, shapes = function(trainer, *args, **kwargs), ()
            else:
                shapes = tuple(tuple(sample["net_input"]["source"].shape) for sample in args[0])
                with CutFinder() as finder:
                    result = function(trainer, *args, **kwargs)
                self.places.update(finder.places)
            counts = graph_counts().since(before)
            self.events.append(Event(part, shapes, counts))
            self.new_graphs[f"{part}: reading"] += counts.compiled - (self.new_graphs.total() - at_steps)
            return result

        return recorded

    def _naming(self, counted_step: Callable[..., None]) -> Callable[..., None]:
        def named(mark_step: Callable[[], None]) -> None:
            before = graph_counts()
            counted_step(mark_step)
            self.new_graphs[_name_by_callers()] += graph_counts().since(before).compiled

        return named

    def of(self, part: str) -> list[Event]:
        return [event for event in self.events if event.part == part]


def _name_by_callers() -> str:
    callers = set()
    frame = sys._getframe(1)
    while frame is not None:
        callers.add(frame.f_code.co_name)
        frame = frame.f_back
    if "_forward_backward" in callers:
        return "update: between" if "seed" in callers else "update: micro-batch"
    if "validate" in callers:
        return "validation: between" if "seed" in callers else "validation: step"
    return "log step: after" if "flush_statistics" in callers else "update: optimizer"


@pytest.fixture(scope="module")
def corpus7(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus7"))


@pytest.fixture(scope="module")
def recorded(corpus7: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorder, Trainer, Path]]:
    """Two epochs with a validation every five updates and checkpoints."""
    save_dir = tmp_path_factory.mktemp("lazy_run")
    cfg = recipe(
        corpus7,
        save_dir,
        common={"device": "lazy"},
        dataset={"validate_interval_updates": 5},
        optimization={"max_update": 1000, "max_epoch": 2},
        model=SMALLER,
    )
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        run = fairseq_cli.train.prepare(cfg)
        run.train()
    yield recorder, run.trainer, save_dir


def test_graphs_are_few_and_named(recorded: tuple[Recorder, Trainer, Path]) -> None:
    """A training bucket is one graph, whether its micro-batch is an update's first or adds to it, and so is a
    validation shape.
    """
    recorder, _, _ = recorded
    shapes = {shape for event in recorder.of("update") for shape in event.shapes}
    assert len(shapes) == BUCKETS
    new = recorder.new_graphs
    allowed = {
        **CONSTANT,
        "update: micro-batch": BUCKETS + CONSTANT["update: micro-batch"],
        "validation: step": BUCKETS,
    }
    print("\ngraphs compiled:", {name: count for name, count in sorted(new.items()) if count})
    print("graphs run:", {part: sum(event.counts.ran for event in recorder.of(part)) for part in PARTS.values()})
    # one a shape of parameter, the first time: torch's backend copies each tensor by a graph of its own
    del new["checkpoint: reading"]
    assert all(count <= allowed.get(name, 0) for name, count in new.items())
    assert new.total() == sum(event.counts.compiled for event in recorder.events if event.part != "checkpoint")
    assert new.total() <= 2 * BUCKETS + sum(CONSTANT.values())


def test_nothing_is_compiled_from_the_third_visit_on(recorded: tuple[Recorder, Trainer, Path]) -> None:
    recorder, _, _ = recorded
    visits: Counter[Any] = Counter()
    third = 0
    for event in recorder.events:
        keys = [(event.part, shape) for shape in event.shapes] or [(event.part, None)]
        if all(visits[key] >= 2 for key in keys):
            third += 1
            assert event.counts.compiled == 0, event
        visits.update(set(keys))
    assert min(count for (part, _), count in visits.items() if part != "checkpoint") >= 3, visits
    print(f"\n{third} of {len(recorder.events)} parts were third visits or later")
    assert third > 10


def test_mark_steps_alone_cut_an_update(recorded: tuple[Recorder, Trainer, Path]) -> None:
    """Outside of log steps nothing is read, and every operator is recorded."""
    recorder, _, _ = recorded
    updates = recorder.of("update")
    assert len(updates) > 15 and {len(event.shapes) for event in updates} <= {1, 2}
    for event in updates:
        assert event.counts.cuts == 0 and event.counts.fallbacks == {}
        assert event.counts.ran == len(event.shapes) + 2  # what was set to zero before, each micro-batch, the optimizer
    assert recorder.places == {}
    assert all(event.counts.cuts == 1 and event.counts.fallbacks == {} for event in recorder.of("log step"))
    assert all(event.counts.cuts == 1 and event.counts.fallbacks == {} for event in recorder.of("validation"))


def test_the_run_learns_and_a_checkpoint_gives_the_same_loss_on_cpu(
    recorded: tuple[Recorder, Trainer, Path], corpus7: Path, tmp_path: Path
) -> None:
    """Validation draws nothing: its masks and negatives are those of the utterances."""
    _, trainer, save_dir = recorded
    cpu = fairseq_cli.train.prepare(
        recipe(corpus7, tmp_path, common={"device": "cpu"}, optimization={"max_update": 1000}, model=SMALLER)
    ).trainer
    fresh = cpu.validate(cpu.get_valid_iterator("valid").next_epoch_itr(shuffle=False))
    checkpoint = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)
    assert all(value.device.type == "cpu" for value in checkpoint["model"].values())
    cpu.load_state_dict(checkpoint)
    on_cpu = cpu.validate(cpu.get_valid_iterator("valid").next_epoch_itr(shuffle=False))
    on_lazy = trainer.validate(trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False))
    print(
        f"\nvalidation loss: before {fresh['loss']:.4f}, after {on_cpu['loss']:.4f} on CPU, {on_lazy['loss']:.4f} "
        "on lazy"
    )
    assert on_cpu["loss"] < 0.8 * fresh["loss"]
    assert on_lazy["loss"] == pytest.approx(on_cpu["loss"], rel=1e-5)
    assert on_lazy["sample_size"] == on_cpu["sample_size"]
    for counts in (on_lazy["code_counts"], on_cpu["code_counts"]):
        assert sum(counts) == 2 * on_cpu["sample_size"] and all(count == int(count) for count in counts)
    lines = read_rows(save_dir / "codes.jsonl")
    assert [line["epoch"] for line in lines if line["split"] == "train"] == [1, 2]
    assert all(sum(line["counts"][0]) == sum(line["counts"][1]) > 0 for line in lines)
    rows = read_rows(save_dir / "metrics.jsonl", "train_inner")
    assert all(row["graphs"] > BUCKETS and row["cpu_fallbacks"] >= 0 for row in rows)


class ReadsItsInput(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.abs().max().item() > 1e6:
            raise ValueError("too large")
        return self.norm(x)


def test_a_planted_read_is_found_by_its_line(corpus7: Path, tmp_path: Path) -> None:
    """The tests above can fail."""
    cfg = recipe(corpus7, tmp_path, common={"device": "lazy"}, optimization={"max_update": 100})
    trainer = fairseq_cli.train.prepare(cfg).trainer
    trainer.unwrapped_model.layer_norm = ReadsItsInput(trainer.unwrapped_model.layer_norm)
    before = graph_counts()
    with CutFinder() as finder:
        trainer.train_step(next(iter(trainer.get_train_iterator(1).next_epoch_itr())))
    assert graph_counts().since(before).cuts == 2  # once a micro-batch
    line = ReadsItsInput.forward.__code__.co_firstlineno + 1
    assert finder.places == {Cut(__file__, line, "item", fell_back=True): 2}


def test_checkpointed_activations_add_a_constant(corpus7: Path, tmp_path: Path) -> None:
    """Blocks are graphs of their own; visits after the second one compile nothing."""
    model = {**SMALLER, "checkpoint_activations": True, "encoder_layers": 2}
    cfg = recipe(corpus7, tmp_path, common={"device": "lazy"}, optimization={"max_update": 100}, model=model)
    trainer = fairseq_cli.train.prepare(cfg).trainer
    updates = trainer.get_train_iterator(1)
    samples = next(iter(updates.next_epoch_itr()))
    compiled = []
    for _ in range(4):
        before = graph_counts()
        trainer.train_step(samples)
        counts = graph_counts().since(before)
        assert counts.cuts == 0 and counts.fallbacks == {}
        compiled.append(counts.compiled)
    assert compiled[2:] == [0, 0]
    assert all(p.grad is not None for p in trainer.unwrapped_model.parameters())


def test_the_command_trains_validates_saves_and_continues(workplace: Workplace) -> None:
    overrides = [
        "common.cpu=false",
        "common.device=lazy",
        "task.enable_padding=true",
        "task.num_batch_buckets=2",
        "task.precompute_mask_indices=true",
        "+task.inferred_w2v_config={mask_prob: 0.65, mask_length: 10, mask_selection: static, mask_other: 0, "
        "mask_channel_prob: 0.0}",
        "checkpoint.save_interval_updates=3",
        "model.encoder_layerdrop=0.2",
        "model.conv_feature_layers='[(16,10,5)] + [(16,8,8)] * 2'",
        "optimization.max_update=6",
        "lr_scheduler.warmup_updates=2",
    ]
    output = workplace.run(*overrides)
    assert "lazy-tensor device" in output and "done training" in output
    train, valid = workplace.rows(), workplace.rows("valid")
    assert len(train) == 3 and train[-1]["loss"] < train[0]["loss"]
    assert valid[-1]["loss"] < valid[0]["loss"]
    again = workplace.run(*overrides)
    assert "checkpoint_last.pt" in again and "num_updates 6 reached" in again


def test_what_the_device_lacks_is_said_at_once(workplace: Workplace) -> None:
    asked = [
        "common.cpu=false",
        "common.device=lazy",
        "common.bf16=true",
        "distributed_training.distributed_world_size=2",
    ]
    output = workplace.run(*asked, status=None)
    assert "computes in fp32 only" in output and "common.bf16=false" in output
    assert "distributed_training.distributed_world_size is 2, but this machine supports at most 1" in output
