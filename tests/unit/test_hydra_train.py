"""The console command up to the start of training: what training gets, where it runs, and what it leaves behind."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.base import ConfigError
from fairseq.distributed import launch
from fairseq.logging import metrics
from fairseq_cli import hydra_train

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "task.data=.",
    "--config-dir",
    str(ROOT / "examples/wav2vec/config/pretraining"),
    "--config-name",
    "wav2vec2_base_librispeech",
    "distributed_training.distributed_world_size=1",
    "common.cpu=true",
]
Command = Callable[..., list[DictConfig]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Type the command in an empty folder with two manifests; returns the configs that would have been trained."""
    (tmp_path / "train.tsv").touch()
    (tmp_path / "valid.tsv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    trained: list[DictConfig] = []
    monkeypatch.setattr(launch, "call_main", lambda cfg, main: trained.append(cfg))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*argv: str) -> list[DictConfig]:
        monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train", *ARGUMENTS, *argv])
        hydra_train.cli_main()
        return trained

    yield run
    root.handlers[:], root.level = handlers, level


def test_training_gets_the_whole_config_in_the_folder_where_it_was_typed(typed: Command, tmp_path: Path) -> None:
    [cfg] = typed("optimization.update_freq=[64]", "common.bf16=true", "common.fp16=false")
    assert (cfg.task.data, cfg.checkpoint.save_dir, os.getcwd()) == (".", "checkpoints", str(tmp_path))
    assert cfg.optimizer.lr == [0.0005] and cfg.optimization.update_freq == [64] and cfg.common.bf16
    assert {path.name for path in tmp_path.iterdir()} == {"train.tsv", "valid.tsv"}


def test_log_lines_come_once(
    typed: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "call_main", lambda cfg, main: logging.getLogger("fairseq.x").info("once"))
    typed()
    out = capsys.readouterr().out
    assert out.count("once") == 1 and "| INFO | fairseq.x | once" in out


@pytest.mark.slow
def test_local_rank_of_an_old_launcher(typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    typed("--local-rank", "3")
    assert os.environ["LOCAL_RANK"] == "0"  # the launcher's environment counts
    monkeypatch.delenv("LOCAL_RANK")
    typed("--local_rank=3")
    assert os.environ.pop("LOCAL_RANK") == "3"


@pytest.mark.slow
def test_jobs_of_a_sweep_have_folders_of_their_own(typed: Command, tmp_path: Path) -> None:
    trained = typed("-m", "optimization.lr=[0.1],[0.2]", "hydra.sweep.dir=sweep")
    assert [cfg.optimization.lr for cfg in trained] == [[0.1], [0.2]]
    assert [cfg.checkpoint.save_dir for cfg in trained] == [
        str(tmp_path / "sweep" / job / "checkpoints") for job in "01"
    ]
    assert [cfg.task.data for cfg in trained] == [".", "."]


def test_nothing_trains_with_a_mistake(typed: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        typed("common.seeed=3", "task.num_batch_buckets=7")
    assert "common.seeed" in str(stop.value) and "requires task.enable_padding=true" in str(stop.value)


def test_a_command_that_is_no_command(typed: Command) -> None:
    with pytest.raises(SystemExit, match="--cfg requires a value"):
        typed("--cfg")
    with pytest.raises(SystemExit, match="common.user_dir is nowhere"):
        typed("common.user_dir=nowhere")


@pytest.mark.process
def test_importing_fairseq_leaves_hydra_alone() -> None:
    code = "import sys, fairseq; print([name for name in sys.modules if name.split('.')[0] == 'hydra'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_metric_goes_to_sweepers(typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(cfg: DictConfig, main: Any) -> None:
        with metrics.aggregate("valid"):
            metrics.log_scalar("loss", 2.5)

    monkeypatch.setattr(launch, "call_main", train)
    returned: list[Any] = []
    real = hydra_train.hydra_main
    monkeypatch.setattr(hydra_train, "hydra_main", lambda cfg: returned.append(real(cfg)))
    typed()
    assert returned == [2.5]


@pytest.mark.slow
def test_a_crash_ends_the_command_unless_suppressed(typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(cfg: DictConfig, main: Any) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(launch, "call_main", crash)
    typed("common.suppress_crashes=true")
    with pytest.raises(SystemExit):
        typed()


@pytest.mark.process
def test_torch_loads_no_device_plug_ins_by_itself() -> None:
    code = (
        "import os, sys, fairseq_cli; assert 'torch' not in sys.modules; "
        "print(os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'])"
    )
    for given, expected in (({}, "0"), ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}, "1")):
        env = {key: value for key, value in os.environ.items() if key != "TORCH_DEVICE_BACKEND_AUTOLOAD"} | {
            "PYTHONPATH": str(ROOT)
        }
        done = subprocess.run([sys.executable, "-c", code], env=env | given, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == expected, done.stderr


def put_under_a_launcher(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank % 2,
        "WORLD_SIZE": 4,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("rank", "tells"), [(0, True), (1, False), (2, True)])
def test_of_a_launchers_processes_the_first_of_each_node_tells_a_mistake(
    typed: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: int, tells: bool
) -> None:
    put_under_a_launcher(monkeypatch, rank)
    with pytest.raises(SystemExit) as stop:
        typed("task.max_sample_size=0")
    assert ("task.max_sample_size is 0" in str(stop.value)) == tells and stop.value.code != 0
    assert capsys.readouterr().out == ""


def test_what_goes_wrong_in_one_process_only_names_it(typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cfg: DictConfig, main: Callable[..., Any]) -> None:
        raise ConfigError(["no GPU."])

    put_under_a_launcher(monkeypatch, rank=3)
    monkeypatch.setattr(launch, "call_main", fail)
    with pytest.raises(SystemExit, match="rank 3: .*\n  - no GPU"):
        typed()


def test_a_stock_yaml_under_torchrun_is_told_the_size_of_its_updates(
    typed: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_under_a_launcher(monkeypatch, rank=0)
    [cfg] = typed("distributed_training.distributed_world_size=64")
    assert cfg.distributed_training.distributed_world_size == 64  # call_main puts the launcher's number there
    told = capsys.readouterr().out
    assert "the launcher started 4 processes, which take precedence" in told and "optimization.update_freq=[16]" in told


def test_each_job_of_a_sweep_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store too; otherwise each job would resume the last."""
    monkeypatch.chdir(tmp_path)
    job = SimpleNamespace(mode=RunMode.MULTIRUN, runtime=SimpleNamespace(output_dir=str(tmp_path / "multirun/7/0")))
    monkeypatch.setattr(hydra_train.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(hydra_train.HydraConfig, "get", lambda: job)
    for save_dir, store, wanted in (
        ("checkpoints", None, (str(tmp_path / "multirun/7/0/checkpoints"), None)),
        ("/checkpoints", None, ("/checkpoints", None)),
        ("s3://bucket/a", None, ("s3://bucket/a/multirun/7/0", None)),
        ("/here", "s3://bucket/a/", ("/here", "s3://bucket/a/multirun/7/0")),
    ):
        run = OmegaConf.create({"checkpoint": {"save_dir": save_dir, "store": store}})
        hydra_train.own_folder_in_sweep(run)
        assert (run.checkpoint.save_dir, run.checkpoint.store) == wanted


def test_hydras_parser_is_made_although_python_checks_help_texts(
    typed: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.14 refuses help that is not a string, as hydra 1.3 has it for one option; here its check is emulated."""
    made = argparse.ArgumentParser.add_argument

    def checked(self: argparse.ArgumentParser, *names: str, **settings: Any) -> argparse.Action:
        if settings.get("help") is not None and not isinstance(settings["help"], str):
            raise ValueError("badly formed help string")
        return made(self, *names, **settings)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", checked)
    [cfg] = typed()
    assert cfg.task.data == "."
    assert argparse.ArgumentParser.add_argument is checked  # the run's own parsers are checked again
    with pytest.raises(SystemExit, match="0"):
        typed("--hydra-help")
    assert "Install or Uninstall shell completion" in capsys.readouterr().out
