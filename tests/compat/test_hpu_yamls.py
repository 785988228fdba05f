"""The YAMLs for Gaudi: the recipe's name and values, and what the others share with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.update_size import beside_the_recipe, update_size
from tests.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/wav2vec/config/pretraining"
LARGE = ("wav2vec2_large_librivox", "wav2vec2_large_continue", "xlsr_300m", "xlsr_1b", "xlsr_2b")
NAMES = (
    "wav2vec2_base_librispeech_hpu",
    "wav2vec2_base_librispeech_hpu_eager",
    *(f"{name}_hpu" for name in LARGE),
)
# Values of the file of this name in the Gaudi fork (Model-References 1.6.1 to 1.8.0), but for what OURS has
RECIPE: dict[str, dict[str, Any]] = {
    "common": {
        "fp16": False,
        "log_format": "simple",
        "log_interval": 1,
        "hpu": True,
        "hpu_lazy_mode": True,
        "seed": 1,
        "hmp": True,
        "hmp_bf16": "../examples/wav2vec/config/pretraining/ops_bf16.txt",
        "hmp_fp32": "../examples/wav2vec/config/pretraining/ops_fp32.txt",
        "hmp_verbose": False,
        "hmp_opt_level": "O1",
    },
    "checkpoint": {"save_interval_updates": 25000, "keep_interval_updates": 1, "no_epoch_checkpoints": True},
    "task": {
        "_name": "audio_pretraining",
        "data": "???",
        "max_sample_size": 250000,
        "min_sample_size": 32000,
        "normalize": True,
        "num_batch_buckets": 7,
        "precompute_mask_indices": True,
        "enable_padding": True,
        "inferred_w2v_config": {
            "mask_prob": 0.65,
            "mask_selection": "static",
            "mask_other": 0,
            "mask_channel_prob": 0.0,
        },
    },
    "dataset": {"num_workers": 6, "batch_size": 16, "max_tokens": 1400000, "skip_invalid_size_inputs_valid_test": True},
    "distributed_training": {"distributed_world_size": 1, "ddp_backend": "pytorch_ddp"},
    "criterion": {
        "_name": "wav2vec",
        "infonce": True,
        "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
        "loss_weights": [0.1, 10],
    },
    "optimization": {"max_update": 400000, "lr": [0.0005], "update_freq": [64]},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": "1e-06", "weight_decay": 0.01},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32000},
    "model": {
        "_name": "wav2vec2",
        "quantize_targets": True,
        "final_dim": 256,
        "encoder_layerdrop": 0.0,
        "dropout_input": 0.1,
        "dropout_features": 0.1,
        "feature_grad_mult": 0.1,
        "encoder_embed_dim": 768,
    },
}
# the card is read every 100 updates, not after each; the lists lie beside the YAML (and in the package), wherever that
# is installed
OURS = {"log_interval": 100, "hmp_bf16": "ops_bf16.txt", "hmp_fp32": "ops_fp32.txt"}
BF16 = "addmm iadd linear matmul mm mv conv1d conv2d instance_norm"
FP32 = "embedding nll_loss log_softmax"


def read(name: str) -> dict[str, Any]:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _group_\n")
    return yaml.safe_load(text)


def test_base_has_the_recipes_values() -> None:
    assert read(NAMES[0]) == {**RECIPE, "common": {**RECIPE["common"], **OURS}}


def test_the_recipes_own_paths_of_the_op_lists_lead_to_them() -> None:
    for key, names in {"hmp_bf16": BF16, "hmp_fp32": FP32}.items():
        from_the_package = (ROOT / "fairseq" / RECIPE["common"][key]).resolve()
        assert from_the_package.read_text(encoding="utf-8").split() == names.split()
        assert (ROOT / "fairseq" / OURS[key]).read_text(encoding="utf-8") == from_the_package.read_text(
            encoding="utf-8"
        )


def test_the_eager_variant_differs_in_the_mode_and_what_is_compiled() -> None:
    lazy, eager = read(NAMES[0]), read(NAMES[1])
    compiled = {key: eager["common"].pop(key) for key in ("hpu_compile", "hpu_optimize_ddp", "hpu_compiled_autograd")}
    assert compiled == {"hpu_compile": "compile", "hpu_optimize_ddp": True, "hpu_compiled_autograd": False}
    assert eager["common"].pop("hpu_lazy_mode") is False and lazy["common"].pop("hpu_lazy_mode") is True
    assert eager == lazy


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_are_the_stock_ones_with_what_gaudi_needs(name: str) -> None:
    base, stock, large = read(NAMES[0]), read(name), read(f"{name}_hpu")
    for group in ("model", "optimizer", "lr_scheduler", "criterion", "checkpoint", "dataset"):
        assert large[group] == stock[group]
    assert large["common"] == base["common"] and large["distributed_training"] == base["distributed_training"]
    shapes = ("num_batch_buckets", "precompute_mask_indices", "enable_padding", "inferred_w2v_config")
    assert large["task"] == {**stock["task"], **{key: base["task"][key] for key in shapes}}
    # one card accumulates what the stock file's cards compute
    batches = [
        stock["distributed_training"]["distributed_world_size"] * stock["optimization"].get("update_freq", [1])[0]
    ]
    assert large["optimization"] == {**stock["optimization"], "update_freq": batches}


@pytest.mark.parametrize("name", [name for name in NAMES if "continue" not in name])
def test_updates_hold_what_the_published_ones_did(name: str) -> None:
    cfg = resolve_config(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert beside_the_recipe(cfg, update_size(cfg, cards=1, nodes=1), cfg.task.sample_rate) is None
    assert "optimization.update_freq=" in beside_the_recipe(
        cfg, update_size(cfg, cards=8, nodes=1), cfg.task.sample_rate
    )


def test_no_recipe_says_how_much_a_continued_run_needs() -> None:
    cfg = resolve_config(OmegaConf.load(FOLDER / "wav2vec2_large_continue_hpu.yaml"))
    assert beside_the_recipe(cfg, update_size(cfg, cards=1, nodes=1), cfg.task.sample_rate) is None


def test_every_comment_names_the_files_own_command() -> None:
    for name in NAMES:
        head = [
            line for line in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines() if line.startswith("#")
        ]
        command = next(line for line in head if "--config-name" in line)
        assert command.split("--config-name ")[1].split()[0] == name


def composed(warm: Warm, cwd: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    source = ["task.data=/data", "--config-dir", str(folder), "--config-name", NAMES[0]]
    done = warm.module("fairseq_cli.hydra_train", [*source, *overrides, "--cfg", "job", "--resolve"], cwd)
    assert done.code == 0, done.output
    return yaml.safe_load(done.output)


def test_an_edited_yaml_and_overrides_give_the_same_config(warm: Warm, tmp_path: Path) -> None:
    """The recipe edits its YAML for eight cards; the same said on the command line, before and after hydra's
    options.
    """
    text = (FOLDER / f"{NAMES[0]}.yaml").read_text(encoding="utf-8")
    for before, after in (
        ("distributed_world_size: 1 ", "distributed_world_size: 8 "),
        ("update_freq: [64]", "update_freq: [8]"),
    ):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / f"{NAMES[0]}.yaml").write_text(text, encoding="utf-8")
    edited = composed(warm, tmp_path, tmp_path)
    assert edited["distributed_training"]["distributed_world_size"] == 8 and edited["optimization"]["update_freq"] == [
        8
    ]
    assert edited == composed(
        warm, tmp_path, FOLDER, "distributed_training.distributed_world_size=8", "optimization.update_freq=[8]"
    )
