"""What is typed after fairseq-hydra-train, put into hydra's order and grammar; and the config that comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra._internal.utils import get_args_parser

from fairseq_cli.command_line import (
    chosen_groups,
    normalise_override,
    override_value,
    read_command_line,
    readable,
)
from fairseq_cli.hydra_train import unchecked_help
from tests.warm import Done, Warm

ROOT = Path(__file__).resolve().parents[2]
STOCK = ROOT / "examples/wav2vec/config/pretraining"
GROUPS = {"model", "task", "optimizer", "lr_scheduler"}


@pytest.mark.parametrize(
    "argv",
    [
        ["a.b=1", "c=2", "--config-dir", "d", "--config-name", "n", "-m"],
        ["--config-dir", "d", "a.b=1", "--config-name=n", "c=2", "--multirun"],
        ["-m", "-cd=d", "a.b=1", "-cn", "n", "c=2"],
        ["a.b=1", "--local_rank=3", "--config-dir=d", "c=2", "-cn", "n", "--local-rank", "3", "-m"],
        ["--config-d", "d", "a.b=1", "--", "c=2", "-m", "--config-n", "n"],
    ],
)
def test_any_order_is_one_to_hydra(argv: list[str]) -> None:
    line = read_command_line(argv)
    with unchecked_help():
        args = get_args_parser().parse_args(line.arguments())
    assert (args.overrides, args.config_dir, args.config_name, args.multirun) == (["a.b=1", "c=2"], "d", "n", True)
    assert line.local_rank == ("3" if any("local" in word for word in argv) else None)


def test_info_takes_a_topic_or_nothing() -> None:
    with unchecked_help():
        parser = get_args_parser()
    assert parser.parse_args(read_command_line(["--info", "a=1"]).arguments()).info == "all"
    args = parser.parse_args(read_command_line(["-i", "defaults-tree", "a=1"]).arguments())
    assert (args.info, args.overrides) == ("defaults-tree", ["a=1"])


def test_option_without_its_value() -> None:
    with pytest.raises(ValueError, match="--config-name requires a value"):
        read_command_line(["a=1", "--config-name"])


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("optimization.lr=[0.1]", "++optimization.lr=[0.1]"),
        ("+optimization.lr=[0.1]", "++optimization.lr=[0.1]"),
        ("++optimization.lr=[0.1]", "++optimization.lr=[0.1]"),
        ("~task.labels", "~task.labels"),
        ("model=wav2vec2/wav2vec2_base", "+model=wav2vec2/wav2vec2_base"),
        ("+optimizer=adam", "optimizer=adam"),
        ("model={_name:wav2vec2}", "++model={_name:wav2vec2}"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=basic", "hydra/launcher=basic"),
        ("optimizer.adam_betas=(0.9,0.98)", "++optimizer.adam_betas='(0.9,0.98)'"),
        ("optimizer.adam_betas='(0.9,0.98)'", "++optimizer.adam_betas='(0.9,0.98)'"),
        (
            "model.conv_feature_layers=[(512,10,5)]+[(1,2,2)]*3",
            "++model.conv_feature_layers='[(512,10,5)]+[(1,2,2)]*3'",
        ),
        ("task.data=/a b/it's(1)=x", "++task.data='/a b/it\\'s(1)=x'"),
        ("task.data=", "++task.data="),
    ],
)
def test_overrides(typed: str, given: str) -> None:
    assert normalise_override(typed, GROUPS, in_defaults={"optimizer"}) == given


def test_hydras_own_grammar_is_left_alone() -> None:
    for override in ("++a=choice(1,2)", "++a=1,2", "++a={b:[1,2]}", "++a='x y'", "++a=null", "++a=${b.c}"):
        assert readable(override) == override


def test_groups_that_are_chosen() -> None:
    words = ["+mygroup=small", "a.b=1", "model@x='one'", "optimizer=adam,composite", "max_update=3"]
    assert chosen_groups(words, {"mygroup", "model", "optimizer"}) == [
        ("mygroup", "small"),
        ("model", "one"),
        ("optimizer", "adam"),
        ("optimizer", "composite"),
    ]


@pytest.mark.parametrize("value", ["2.5", "true", "[[]]", "[a,1]", "[{a:1}]"])
def test_a_group_is_chosen_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="task is .*: it must be the name of one of its YAML files or classes"):
        normalise_override(f"+task={value}", GROUPS, set())
    assert normalise_override("task=[a,b]", GROUPS, set()) == "+task=[a,b]"
    assert normalise_override("task=a,b", GROUPS, set()) == "+task=a,b"


def test_an_override_without_a_key() -> None:
    with pytest.raises(ValueError, match="'=3' has no key"):
        normalise_override("=3", GROUPS, set())


def test_brackets_nested_too_deeply() -> None:
    with pytest.raises(ValueError, match="optimization.lr: brackets are nested more than 40 deep"):
        readable("++optimization.lr=" + "[" * 400 + "]" * 400)


def test_last_override_counts() -> None:
    assert (
        override_value(["common.user_dir=a", "++common.user_dir='b'", "common.user_dirs=c"], "common.user_dir") == "b"
    )
    assert override_value([], "common.user_dir") is None


# -- the command itself ------------------------------------------------------------------------------------------------


def composed(warm: Warm, *argv: str | Path, cwd: Path) -> dict:
    done = command(warm, *argv, "--cfg", "job", cwd=cwd)
    assert done.code == 0, done.output
    return yaml.safe_load(done.output)


def command(warm: Warm, *argv: str | Path, cwd: Path) -> Done:
    return warm.module("fairseq_cli.hydra_train", [str(word) for word in argv], cwd)


@pytest.mark.process
def test_stock_yaml_with_overrides_anywhere(tmp_path: Path) -> None:
    """By a process of its own, to see both streams."""
    words = [
        "task.data=/some where/a(1)",
        "--local_rank=1",
        "+optimization.update_freq=[64]",
        "--config-dir",
        STOCK,
        "optimizer.adam_betas=(0.8,0.9)",
        "common.seed=3",
        "--config-name",
        "wav2vec2_base_librispeech",
        "++model.final_dim=128",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_cli.hydra_train", *map(str, words), "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    cfg = yaml.safe_load(done.stdout)
    assert cfg["task"]["data"] == "/some where/a(1)" and cfg["optimization"]["update_freq"] == [64]
    assert cfg["optimizer"]["adam_betas"] == "(0.8,0.9)" and float(cfg["optimizer"]["adam_eps"]) == 1e-6
    assert (cfg["common"]["seed"], cfg["model"]["final_dim"], cfg["model"]["encoder_layers"]) == (3, 128, 12)
    assert cfg["lr_scheduler"]["total_num_update"] == "${optimization.max_update}"
    assert list(tmp_path.iterdir()) == []  # no output folders


def test_groups_replace_what_the_yaml_says(warm: Warm, tmp_path: Path) -> None:
    cfg = composed(
        warm,
        "--config-dir",
        STOCK,
        "--config-name",
        "wav2vec2_large_librivox",
        "lr_scheduler=fixed",
        "optimizer=adam",
        cwd=tmp_path,
    )
    assert cfg["lr_scheduler"] == {
        "_name": "fixed",
        "force_anneal": None,
        "lr_shrink": 0.1,
        "warmup_updates": 0,
        "lr": "${optimization.lr}",
    }
    assert cfg["optimizer"]["weight_decay"] == 0.0


def test_without_a_yaml_groups_are_enough(warm: Warm, tmp_path: Path) -> None:
    cfg = composed(
        warm,
        "model=wav2vec2/wav2vec2_large",
        "task=audio_pretraining",
        "criterion=wav2vec",
        "task.data=x",
        cwd=tmp_path,
    )
    assert (cfg["model"]["_name"], cfg["model"]["encoder_layers"], cfg["task"]["data"]) == ("wav2vec2", 24, "x")


def test_plug_ins_compose(warm: Warm, tmp_path: Path) -> None:
    plug_in = tmp_path / "plug_in_of_test"
    plug_in.mkdir()
    (plug_in / "__init__.py").write_text(
        "from dataclasses import dataclass\n"
        "from fairseq.models import register_model\n"
        "from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model\n"
        "@dataclass\nclass Mine(Wav2Vec2Config):\n    flavour: str = 'plain'\n"
        "@register_model('mine', dataclass=Mine)\nclass MyModel(Wav2Vec2Model):\n    pass\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "# @package _group_\ncommon: {user_dir: plug_in_of_test}\nmodel: {_name: mine, encoder_layers: 2}\n"
    )
    cfg = composed(warm, "--config-dir", ".", "--config-name", "mine", "model.flavour=rich", cwd=tmp_path)
    assert (cfg["model"]["flavour"], cfg["model"]["encoder_layers"]) == ("rich", 2)
    cfg = composed(warm, "common.user_dir=plug_in_of_test", "model=mine", cwd=tmp_path)
    assert (cfg["model"]["_name"], cfg["model"]["flavour"]) == ("mine", "plain")


def test_mistakes_are_told_together_and_plainly(warm: Warm, tmp_path: Path) -> None:
    done = command(
        warm,
        "task.data=nowhere",
        "--config-dir",
        STOCK,
        "--config-name",
        "wav2vec2_base_librispeech",
        "common.cpu=true",
        "common.seeed=2",
        "distributed_training.distributed_world_size=4096",
        cwd=tmp_path,
    )
    assert done.code != 0 and "Traceback" not in done.output
    for part in (
        "the config has 3 problems",
        "common.seeed is not a known key. Did you mean 'seed'?",
        f"there is no such folder (relative to {tmp_path})",
        "distributed_training.distributed_world_size=1 optimization.update_freq=[4096]",
    ):
        assert part in done.output
    assert list(tmp_path.iterdir()) == []


def test_hydras_own_options(warm: Warm, tmp_path: Path) -> None:
    stock = ("--config-dir", STOCK, "--config-name", "wav2vec2_base_librispeech")
    done = command(warm, "--help", cwd=tmp_path)
    assert done.code == 0 and "\nmodel: data2vec_audio, hubert" in done.output and "task.data=/path" in done.output
    done = command(warm, "--info", "config", "task.data=x", *stock, cwd=tmp_path)
    assert done.code == 0 and "data: x" in done.output
    done = command(warm, *stock, "--cfg", "hydra", cwd=tmp_path)
    assert done.code == 0 and "chdir: false" in done.output
    done = command(
        warm,
        "task.data=x",
        *stock,
        "--cfg",
        "job",
        "--package",
        "optimizer",
        "--resolve",
        "dataset.batch_size=2",
        cwd=tmp_path,
    )
    assert yaml.safe_load(done.output)["lr"] == [0.0005]
