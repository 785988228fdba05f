"""Numbers that change from update to update are no constants of compiled graphs: by the bridge's rule, in the stand-in
and in preflight.

`python -m tests.drills.gaudi_graphs --tree CHECKOUT` shows the same for an older checkout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import fairseq_cli.train
from fairseq.device.graph_counts import graph_counts
from fairseq.device.hpu import HpuDevice
from fairseq.modules import GumbelVectorQuantizer
from fairseq.preflight import plan, steps, tiny
from fairseq.preflight.plan import Launch
from fairseq.tasks import setup_task
from fairseq.trainer import Trainer
from tests.integration.finetuning_runs import config
from tests.integration.hpu_recipe import recipe, write_corpus
from tests.integration.test_hpu_finetuning import SETTINGS

UPDATES = 12


def fill_the_temperature(self: GumbelVectorQuantizer, num_updates: int) -> None:
    self.curr_temp = max(self.max_temp * self.temp_decay**num_updates, self.min_temp)
    self.temperature.fill_(self.curr_temp)  # as it was


def fill_what_is_sent(self: HpuDevice, tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:
        return torch.full((), tensor.item(), device=self.torch_device)  # as the number of utterances was
    return tensor.to(self.torch_device, dtype=torch.int32 if tensor.dtype == torch.int64 else tensor.dtype)


def line_of(function: Callable[..., Any], text: str) -> str:
    """`file:line` of the line of a function that contains a text."""
    source = Path(function.__code__.co_filename).read_text().splitlines()
    numbers = [n for n, line in enumerate(source, 1) if text in line and n >= function.__code__.co_firstlineno]
    return f"tests/integration/{Path(function.__code__.co_filename).name}:{numbers[0]}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), num_train=24, num_valid=4)


def pretraining(corpus: Path, save_dir: Path, **common: Any) -> Any:
    return recipe(
        corpus,
        save_dir,
        common={"log_interval": 3, **common},
        task={"num_batch_buckets": 2},
        dataset={"validate_interval_updates": 5},
        optimization={"max_update": UPDATES},
        checkpoint={"no_save": True},
        model={"encoder_layers": 1, "conv_feature_layers": "[(16,10,5)] + [(16,8,8)] * 2"},
    )


class Compilations:
    """Graphs compiled by each update of a run, once the update's shapes had been met in two updates before."""

    def __init__(self, patch: pytest.MonkeyPatch, compiled: Callable[[], int]) -> None:
        self.late: list[int] = []
        visits: Counter[Any] = Counter()
        train_step = Trainer.train_step

        def watched(trainer: Trainer, samples: list[dict[str, Any]]) -> None:
            before = compiled()
            train_step(trainer, samples)
            shapes = {sample["net_input"]["source"].shape for sample in samples}
            if all(visits[shape] >= 2 for shape in shapes):
                self.late.append(compiled() - before)
            visits.update(shapes)

        patch.setattr(Trainer, "train_step", watched)


def on_stand_in(cfg: Any, patch: pytest.MonkeyPatch) -> tuple[list[int], list[Any]]:
    """Late compilations of a run by the stand-in's graph keys, and where those graphs differ from earlier ones."""
    run = fairseq_cli.train.prepare(cfg)
    from habana_frameworks import recording

    compilations = Compilations(patch, lambda: len(recording.compiled))
    run.train()
    return compilations.late, recording.changes


def test_pretraining_compiles_nothing_after_the_second_visits(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, _ = on_stand_in(pretraining(corpus, tmp_path, hpu=True), monkeypatch)
    assert len(late) >= 6 and not any(late)


@pytest.mark.needs("lazy")
def test_torchs_lazy_device_agrees(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fairseq_cli.train.prepare(pretraining(corpus, tmp_path, device="lazy"))
    late = Compilations(monkeypatch, lambda: graph_counts().compiled).late
    run.train()
    assert len(late) >= 6 and not any(late)


def test_a_temperature_that_is_filled_in_compiles_a_graph_each_update(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's lazy device cannot show: there the number of a fill is no part of the graph."""
    monkeypatch.setattr(GumbelVectorQuantizer, "set_num_updates", fill_the_temperature)
    late, changes = on_stand_in(pretraining(corpus, tmp_path, hpu=True), monkeypatch)
    assert len(late) >= 6 and set(late) == {1}
    assert changes[-1].operator == "fill_.Scalar" and changes[-1].difference.startswith("value was 1.99")


@pytest.mark.parametrize("filled", [False, True])
def test_fine_tuning_with_sentence_avg(
    filled: bool,
    fake_habana: ModuleType,
    labelled: Path,
    pretrained_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if filled:
        monkeypatch.setattr(HpuDevice, "send", fill_what_is_sent)
    changes = {
        **SETTINGS,
        "common.hpu": True,
        "optimization.sentence_avg": True,
        "optimization.max_update": 8,
        "model.freeze_finetune_updates": 0,
        "task.num_batch_buckets": 1,
        "dataset.max_tokens": 40000,
        "checkpoint.no_save": True,
    }
    train_step, count = Trainer.train_step, iter(range(1, 100))

    def with_other_counts(trainer: Trainer, samples: list[dict[str, Any]]) -> None:
        train_step(trainer, [{**sample, "num_valid": next(count)} for sample in samples])

    monkeypatch.setattr(Trainer, "train_step", with_other_counts)
    late, found = on_stand_in(
        config("base_10h_hpu", labelled, pretrained_files["base"], tmp_path, **changes), monkeypatch
    )
    assert len(late) >= 6 and set(late) == ({1} if filled else {0})
    assert not filled or any(change.operator == "full" for change in found)


# -- preflight ---------------------------------------------------------------------------------------------------------


def watched(cfg: Any) -> dict[tuple[str, str], int]:
    """Places at which preflight finds new graphs, with their number."""
    task = setup_task(cfg.task)
    task.build_model(cfg.model)
    splits = plan.load(cfg, task, Launch(1, 1))
    for split in splits:
        tiny.hear_noise(split)
    _, watch = steps.trace_operators(cfg, [shape for split in splits for shape in plan.shapes(split)])
    return {place: len(changes) for place, changes in watch.changes.items()}


def test_preflight_names_a_filled_temperature_by_file_and_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, test_preflight's runs find none."""
    monkeypatch.setattr(GumbelVectorQuantizer, "set_num_updates", fill_the_temperature)
    found = watched(pretraining(corpus, tmp_path, hpu=True))
    assert list(found) == [("fill_.Scalar", line_of(fill_the_temperature, "temperature.fill_"))]
    assert found.popitem()[1] >= UPDATES - 4  # of two shapes, each of whose first two visits may compile


@pytest.mark.parametrize("filled", [False, True])
def test_preflight_names_a_filled_count_by_file_and_line(
    filled: bool, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filled:
        monkeypatch.setattr(HpuDevice, "send", fill_what_is_sent)
    changes = {**SETTINGS, "common.hpu": True, "optimization.sentence_avg": True, "model.freeze_finetune_updates": 0}
    found = watched(config("base_10h_hpu", labelled, pretrained_files["base"], tmp_path, **changes))
    assert list(found) == ([("full", line_of(fill_what_is_sent, "torch.full(()"))] if filled else [])
