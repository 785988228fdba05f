"""The demo's steps: time, commands, and how a failing one is told."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest


def test_time_is_told_by_step(
    demo_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("steps")
    times = iter([0.0, 5.0, 130.0, 130.2])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    steps = module.Steps(3)
    for name in ("corpus", "training", "report"):
        steps.begin(name, f"the {name}")
    assert steps.summary() == "Time: corpus 5 s, training 2 min 5 s; total 2 min 10 s"
    assert "=== 3/3 the report" in capsys.readouterr().out


def test_what_a_command_prints_can_go_to_a_file(demo_dir: Path, tmp_path: Path) -> None:
    module = importlib.import_module("steps")
    module.run([sys.executable, "-c", "print('A B')"], output=tmp_path / "text")
    assert (tmp_path / "text").read_text() == "A B\n"


def test_training_is_shown_as_the_user_would_type_it(
    demo_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("steps")
    commands: list[list[str]] = []
    monkeypatch.setattr(module, "follow", lambda command, save_dir, log: commands.append(command) or 0)
    module.train(Path("configs/some.yaml"), Path("labels"), Path("runs/1"), 3, ["optimization.max_update=2"])
    (command,) = commands
    assert command[-8:] == [
        "task.data=labels",
        "checkpoint.save_dir=runs/1",
        "common.seed=3",
        "optimization.max_update=2",
        "--config-dir",
        "configs",
        "--config-name",
        "some",
    ]
    printed = capsys.readouterr().out
    assert shlex.join(command) in printed and "runs/1/train.log" in printed


TRAINING = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
print("2026-01-01 00:00:00 | INFO | fairseq_cli.train | model Wav2Vec2Model")
print("2026-01-01 00:00:00 | WARNING | fairseq_cli.train | little audio", flush=True)
with open(folder / "metrics.jsonl", "a") as file:
    for row in (
        {"split": "train_inner", "num_updates": 20, "loss": 7.1, "loss_0": 6.5, "accuracy": 0.0125, "audio_s_per_s": 110.4, "gnorm": 3},
        {"split": "valid", "num_updates": 20, "loss": 6.9, "loss_0": 6.25, "accuracy": 0.031},
        {"split": "train", "num_updates": 20, "loss": 7.0},
    ):
        file.write(json.dumps(row) + chr(10))
sys.exit(int(sys.argv[2]))
"""


def test_training_is_followed_in_short_lines(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("training_status")
    # an earlier run's
    (tmp_path / "metrics.jsonl").write_text('{"split": "train_inner", "num_updates": 10, "loss": 7.0}\n')
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    assert module.follow([*command, "0"], tmp_path, tmp_path / "train.log") == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-01-01 00:00:00 | WARNING | fairseq_cli.train | little audio",
        "  update    20   loss  6.500   accuracy  1.25 %     110 s of audio per s",
        "  update    20   loss  6.250   accuracy  3.10 %   (validation)",
    ]
    assert module.follow([*command, "3"], tmp_path, tmp_path / "train.log") == 3
    assert "model Wav2Vec2Model" in capsys.readouterr().out  # a failed run shows the end of its log
    assert (tmp_path / "train.log").read_text().count("model Wav2Vec2Model") == 2


def test_fine_tuning_has_error_rates(demo_dir: Path) -> None:
    module = importlib.import_module("training_status")
    row = {"split": "valid", "num_updates": 200, "loss": 31.25, "wer": 88.8, "uer": 40.04}
    assert module.describe(row) == "  update   200   loss 31.250   WER  88.8 %   UER  40.0 %   (validation)"
