"""The demo's steps: time, commands, and how a failing one is told."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


def test_time_is_told_by_step(demo_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("steps")
    times = iter([0.0, 5.0, 130.0, 130.2])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    steps = module.Steps(3)
    for name in ("corpus", "training", "report"):
        steps.begin(name, f"the {name}")
    assert steps.summary() == "Time: corpus 5 s, training 2 min 5 s; together 2 min 10 s"
    assert "=== 3/3 the report" in capsys.readouterr().out


def test_what_a_command_prints_can_go_to_a_file(demo_dir: Path, tmp_path: Path) -> None:
    module = importlib.import_module("steps")
    module.run([sys.executable, "-c", "print('A B')"], output=tmp_path / "text")
    assert (tmp_path / "text").read_text() == "A B\n"


def test_training_is_shown_as_the_user_would_type_it(demo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("steps")
    commands: list[list[str]] = []
    monkeypatch.setattr(module, "run", commands.append)
    module.train(Path("configs/some.yaml"), Path("labels"), Path("runs/1"), 3, ["optimization.max_update=2"])
    (command,) = commands
    assert command[-8:] == [
        "task.data=labels", "checkpoint.save_dir=runs/1", "common.seed=3", "optimization.max_update=2",
        "--config-dir", "configs", "--config-name", "some",
    ]  # fmt: skip
