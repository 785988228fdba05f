"""What a command line composes to, in this process: groups of one's own, and mistakes as sentences."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairseq_cli import hydra_train

STOCK = str(hydra_train.STOCK_FOLDER / "pretraining")
Compose = Callable[..., Any]


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Compose]:
    """Type a command; returns what it prints, or the text of its exit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*argv: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train", *map(str, argv)])
        try:
            hydra_train.cli_main()
        except SystemExit as stop:
            return str(stop.code)
        return capsys.readouterr().out

    yield run
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own YAML files, with groups."""
    (tmp_path / "own/mygroup").mkdir(parents=True)
    (tmp_path / "own/run_config").mkdir()
    (tmp_path / "own/top.yaml").write_text("# @package _group_\nmodel: {_name: wav2vec2}\n")
    (tmp_path / "own/mygroup/small.yaml").write_text("# @package _global_\nmodel: {encoder_layers: 3}\n")
    (tmp_path / "own/mygroup/bare.yaml").write_text("encoder_layers: 3\n")
    (tmp_path / "own/run_config/slurm_1.yaml").write_text(
        "# @package _global_\nhydra: {launcher: {partition: devlab, name: '${env:PREFIX}_x'}}\n"
        "distributed_training: {distributed_port: 1}\n"
    )
    return tmp_path / "own"


@pytest.mark.slow
def test_groups_of_ones_own(compose: Compose, own: Path) -> None:
    top = ("--config-dir", own, "--config-name", "top", "--cfg", "job")
    for word in ("+mygroup=small", "mygroup=small"):
        assert yaml.safe_load(compose(*top, word))["model"]["encoder_layers"] == 3
    cfg = yaml.safe_load(
        compose(*top, "+run_config=slurm_1", "hydra/launcher=dependency_submitit_slurm", "+mygroup=small")
    )
    assert (cfg["distributed_training"]["distributed_port"], cfg["model"]["encoder_layers"]) == (1, 3)


@pytest.mark.slow
def test_a_config_by_its_path_and_folders_together(compose: Compose, own: Path) -> None:
    package = ("--cfg", "job", "--package", "model.encoder_layers")
    assert compose("--config-name", own / "top.yaml", "+mygroup=small", *package) == "3\n"
    assert (
        compose("--config-path", own, "--config-name", "top", "--config-dir", STOCK, "mygroup=small", *package) == "3\n"
    )
    assert compose("--config-dir", own, "--config-name", "wav2vec2_large_librivox", *package) == "24\n"
    assert compose("--config-dir", own, "--config-name", "wav2vec2_large_librivox", "mygroup=small", *package) == "3\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+run_config=slurm_2"], "Could not find 'run_config/slurm_2'"),
        (
            ["+run_confg=slurm_1"],
            "run_confg is not a known config group. No config folder has run_confg/slurm_1.yaml",
        ),
        (
            ["+run_config=slurm_1"],
            "hydra.launcher keys require a launcher: add hydra/launcher=dependency_submitit_slurm -m",
        ),
        (["mygroup=bare"], "mygroup is not a known config group. If it comes from your own YAML"),
        (["optimization.lr=${"], "optimization.lr"),
        (["optimization.max_update=${oc.env:NOT_SET}"], "the environment variable NOT_SET is not set"),
        (["optimizer=${model}"], "optimizer"),
        (["+task=${"], "task is ${: it must be the name of one of its YAML files or classes"),
        (["optimizer=null"], "optimizer is null: write ~optimizer"),
        (["--config-dir", "x" * 300], "--config-dir is xxx"),
        (["--config-name", "x" * 300], "--config-name is xxx"),
        (["--package", "a..b", "--cfg", "job"], "--package is a..b"),
    ],
)
def test_what_cannot_be_composed_is_a_sentence(compose: Compose, own: Path, words: list[str], message: str) -> None:
    told = compose("--config-dir", own, "--config-name", "top", *words)
    assert message in told and told.startswith("fairseq-hydra-train: ") and "Config search path" not in told


def test_lists_and_explanations(compose: Compose) -> None:
    assert "pretraining:\n  wav2vec2_base_continue " in compose("--list-configs")
    told = compose("--explain-key", "update_freq", "--config-name", "wav2vec2_demo")
    assert told.startswith("optimization.update_freq\n") and "default: [1]" in told
    assert compose("--config-name", "wav2vec2_base_librispech").endswith("Did you mean 'wav2vec2_base_librispeech'?")
    assert compose("--explain-key", "update_frq").endswith("Did you mean 'optimization.update_freq'?")


def test_hydras_errors_in_full_where_asked_for(compose: Compose, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="Could not find 'mygroup/absent'"):
        compose("--config-dir", own, "--config-name", "top", "mygroup=absent")
