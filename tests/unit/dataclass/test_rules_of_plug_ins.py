"""A schedule, a criterion or a task brings its rules in its own file: one file each, and nothing else is touched."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq import optim, tasks
from fairseq.criterions import build_criterion
from fairseq.dataclass.groups import CONFIG_GROUPS, REGISTERED
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.validate import find_named
from fairseq.optim.lr_scheduler import build_lr_scheduler
from fairseq.registry import REGISTRIES

SCHEDULE = """
from dataclasses import dataclass, field
from omegaconf import II
from fairseq.dataclass import FairseqDataclass, odd, wrong
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler

@dataclass
class SawConfig(FairseqDataclass):
    teeth: int = field(default=3, metadata={"help": "teeth of the saw", "at_least": 1})
    shape: str = field(default="even", metadata={"choices": ("even", "steep")})
    low: float = 0.0
    high: float = 1.0
    max_update: int = II("optimization.max_update")

    def check(self):
        if self.low > self.high:
            yield wrong(f"lr_scheduler.low is {self.low}: it must be at most lr_scheduler.high, {self.high}.")
        if self.teeth > self.max_update > 0:
            yield odd("lr_scheduler.teeth: more than there are updates.", "saw")

@register_lr_scheduler("saw", dataclass=SawConfig)
class Saw(FairseqLRScheduler):
    pass
"""
CRITERION = """
from dataclasses import dataclass
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass, wrong

@dataclass
class HingeConfig(FairseqDataclass):
    margin: float = 1.0

    def check(self):
        if self.margin <= 0:
            yield wrong(f"criterion.margin is {self.margin}: it must be above 0.")

@register_criterion("hinge", dataclass=HingeConfig)
class Hinge(FairseqCriterion):
    def __init__(self, task, margin):
        super().__init__(task)
"""
WITHOUT_RULES = """
from dataclasses import dataclass
from fairseq.dataclass import FairseqDataclass
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask, register_task

@dataclass
class PlainConfig(FairseqDataclass):
    check: bool = True  # a field with the method's name
    check_files: int = -7

@register_criterion("plain", dataclass=PlainConfig)
class Plain(FairseqCriterion):
    pass

@dataclass
class FilesConfig(FairseqDataclass):
    data: str = "x"

    def check_files(self):
        from fairseq.dataclass import wrong
        yield wrong(f"task.data is {self.data!r}: it is not there.", "manifests")

@register_task("files", dataclass=FilesConfig)
class Files(FairseqTask):
    pass

@register_criterion("bare")
class Bare(FairseqCriterion):
    pass
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes a file and imports it; what it registers is forgotten after the test."""
    tables = [*CONFIG_GROUPS.values(), *REGISTERED.values(), tasks.TASK_REGISTRY, tasks.TASK_DATACLASS_REGISTRY]
    tables += [registry["registry"] for registry in REGISTRIES.values()]
    before = [dict(table) for table in tables]

    def load(text: str) -> None:
        path = tmp_path / "plug_in.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("plug_in", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "plug_in", module)
        spec.loader.exec_module(module)

    yield load
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def run_with(**groups: Any) -> DictConfig:
    """A config without problems but those of the groups given."""
    return resolve_config(
        OmegaConf.create(
            {
                "task": {"_name": "audio_pretraining", "data": "d"},
                "dataset": {"max_tokens": 640000},
                "criterion": {"_name": "wav2vec", "infonce": True},
                "optimization": {"max_update": 400, "lr": [0.0005]},
                "optimizer": {"_name": "adam"},
                "lr_scheduler": {"_name": "fixed"},
                "model": {"_name": "wav2vec2"},
                **groups,
            }
        )
    )


def told(cfg: DictConfig, files: bool = False) -> list[tuple[str, bool, str]]:
    return [(finding.name, finding.stops, finding.text) for finding in find_named(cfg, files)]


def test_a_schedule_with_rules_is_one_file(plug_in: Callable[[str], None]) -> None:
    plug_in(SCHEDULE)
    assert told(run_with(lr_scheduler={"_name": "saw"})) == []
    bad = run_with(lr_scheduler={"_name": "saw", "teeth": 0, "shape": "round", "low": 2.0})
    low = "lr_scheduler.low is 2.0: it must be at most lr_scheduler.high, 1.0."
    assert told(bad) == [
        ("single-values", True, "lr_scheduler.teeth is 0: it must be at least 1."),
        ("single-values", True, "lr_scheduler.shape is 'round': it must be one of even, steep."),
        ("lr_scheduler", True, low),  # a finding without a topic has its group's name
    ]
    many = run_with(lr_scheduler={"_name": "saw", "teeth": 500})
    assert told(many) == [("saw", False, "lr_scheduler.teeth: more than there are updates.")]
    optimizer = optim.build_optimizer(
        OmegaConf.create({"_name": "adam", "lr": [0.1]}), [torch.zeros(1, requires_grad=True)]
    )
    with pytest.raises(ValueError, match=low):
        build_lr_scheduler(bad.lr_scheduler, optimizer)
    without_name = {"teeth": 3, "shape": "even", "low": 2.0, "high": 1.0, "max_update": 9}
    for form in (OmegaConf.create(without_name), Namespace(**without_name)):
        with pytest.raises(ValueError, match=low):
            sys.modules["plug_in"].Saw(form, optimizer)
    build_lr_scheduler(many.lr_scheduler, optimizer)  # a warning stops no constructor


def test_a_criterion_with_a_rule_is_one_file(plug_in: Callable[[str], None]) -> None:
    plug_in(CRITERION)
    assert told(run_with(criterion={"_name": "hinge"})) == []
    bad = run_with(criterion={"_name": "hinge", "margin": -1.0})
    assert told(bad) == [("criterion", True, "criterion.margin is -1.0: it must be above 0.")]
    task = SimpleNamespace(target_dictionary=None)
    with pytest.raises(ValueError, match="criterion.margin is -1.0"):
        build_criterion(bad.criterion, task)


def test_plug_ins_without_rules_and_with_files(plug_in: Callable[[str], None]) -> None:
    plug_in(WITHOUT_RULES)
    assert told(run_with(criterion={"_name": "plain"})) == []
    assert told(run_with(criterion={"_name": "bare", "dropout": 7})) == []
    cfg = run_with(task={"_name": "files"})
    assert told(cfg) == []
    assert told(cfg, files=True) == [("manifests", True, "task.data is 'x': it is not there.")]
    tasks.setup_task(cfg.task)  # constructors do not look for files
