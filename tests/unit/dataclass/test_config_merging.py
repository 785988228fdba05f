"""Merging configs with dataclasses, plain containers, differences, old arguments."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Optional

import pytest
from omegaconf import II, OmegaConf

from fairseq.dataclass import ChoiceEnum, FairseqDataclass, utils
from fairseq.dataclass.configs import DatasetConfig, OptimizationConfig
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.initialize import resolve_config

COLOURS = ChoiceEnum(["red", "no-colour"])


@dataclass
class InnerConfig(FairseqDataclass):
    depth: int = II("model.depth")


@dataclass
class ToyConfig(FairseqDataclass):
    depth: int = 2
    rates: list[float] = field(default_factory=lambda: [1.0])
    pair: tuple[float, float] = (0.9, 0.999)
    free: Any = (1, 2)
    colour: COLOURS = "red"
    label: Optional[str] = None
    lr: list[float] = II("optimization.lr")
    normalize: bool = II("task.normalize")
    unknown: Optional[int] = II("nowhere.at_all")
    inner: Optional[InnerConfig] = None


def test_choices_are_strings() -> None:
    assert COLOURS("red") == "red" and f"{COLOURS('no-colour')}" == "no-colour" and {COLOURS("red"): 1}["red"] == 1
    with pytest.raises(ValueError, match="blue"):
        COLOURS("blue")


def test_merge_keeps_defaults_and_reads_literals() -> None:
    cfg = utils.merge_with_parent(
        ToyConfig(), {"_name": "toy", "rates": "[1, 2]", "pair": "(0.5, 0.25)", "colour": "no-colour"}
    )
    assert (cfg._name, cfg.depth, cfg.rates, list(cfg.pair)) == ("toy", 2, [1.0, 2.0], [0.5, 0.25])
    assert cfg.colour == "no-colour"
    assert utils.merge_with_parent(ToyConfig(), {"rates": 3}).rates == [3.0]
    assert utils.merge_with_parent(ToyConfig(depth=5), ToyConfig(depth=7)).depth == 7


def test_free_standing_interpolations_fall_back_to_the_referenced_default(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class OtherTaskConfig(FairseqDataclass):
        normalize: bool = True

    monkeypatch.setitem(CONFIG_GROUPS, "task", {"other": OtherTaskConfig})
    cfg = utils.merge_with_parent(ToyConfig(), OmegaConf.create({"depth": 3}))
    assert cfg.lr == OptimizationConfig().lr
    assert cfg.normalize is True


def test_interpolations_look_into_the_parent() -> None:
    whole = OmegaConf.create({"optimization": {"lr": [0.5]}, "model": {"depth": 4, "inner": {"_name": None}}})
    cfg = utils.merge_with_parent(ToyConfig(), whole.model)
    assert cfg.lr == [0.5] and cfg.inner.depth == 4
    whole.optimization.lr = [0.25]
    assert cfg.lr == [0.25]


def test_unknown_keys_and_wrong_types_are_told_together() -> None:
    with pytest.raises(ValueError, match="depht is not a known key. Did you mean 'depth'") as error:
        utils.merge_with_parent(ToyConfig(), {"depht": 3, "depth": "deep", "colour": "blue"})
    assert "depth is 'deep'" in str(error.value) and "red, no-colour" in str(error.value)
    assert utils.merge_with_parent(ToyConfig(), {"depht": 3, "depth": 4}, remove_missing=True).depth == 4


def test_merged_config_takes_no_new_keys() -> None:
    cfg = utils.merge_with_parent(ToyConfig(), {})
    with pytest.raises(Exception, match="depht"):
        cfg.depht = 3


def test_nothing_in_a_value_is_evaluated() -> None:
    with pytest.raises(ValueError, match="rates"):
        utils.merge_with_parent(ToyConfig(), {"rates": "[__import__('os').getpid()]"})


def test_container_is_plain() -> None:
    container = utils.config_to_container(utils.merge_with_parent(ToyConfig(), {"colour": "no-colour"}))
    assert type(container["colour"]) is str and container["pair"] == [0.9, 0.999] and container["free"] == [1, 2]
    assert container["unknown"] == "${nowhere.at_all}"  # stays as text, as nothing answers it
    assert utils.config_to_container(DatasetConfig())["max_tokens_valid"] == "${dataset.max_tokens}"
    assert utils.config_to_container(ToyConfig())["depth"] == 2


def test_config_diff_lists_dotted_keys() -> None:
    old = {"model": {"depth": 2, "lr": [0.1]}, "gone": {"x": 1}}
    new = {"model": {"depth": 2.0, "lr": [0.2]}, "came": "y"}
    assert utils.config_diff(old, new) == [("model.lr", [0.1], [0.2]), ("gone.x", 1, None), ("came", None, "y")]
    assert utils.config_diff(old, old) == []


def test_overwrite_by_name() -> None:
    model = {"data": "a", "w2v_args": {"model": {"data": "a"}}}
    cfg = OmegaConf.create({"task": {"data": "a", "normalize": False}, "model": model, "x": None})
    utils.overwrite_args_by_name(cfg, {"data": "b", "task": {"normalize": True}})
    assert cfg.task.normalize is True and cfg.task.data == "a"  # a group's own dict is for that group
    assert cfg.model.data == "b" and cfg.model.w2v_args.model.data == "b"


def test_eval_str_list() -> None:
    assert utils.eval_str_list("[1, 2]", int) == [1, 2]
    assert (
        utils.eval_str_list("0.5") == [0.5]
        and utils.eval_str_list((1, 2)) == [1.0, 2.0]
        and utils.eval_str_list(None) is None
    )


def test_old_arguments_become_a_config() -> None:
    args = Namespace(
        arch="wav2vec2",
        task="audio_pretraining",
        criterion="wav2vec",
        optimizer="adam",
        lr_scheduler="polynomial_decay",
        data="/somewhere",
        normalize=True,
        encoder_embed_dim=48,
        latent_temp="(2.0, 0.5, 0.9)",
        infonce=True,
        loss_weights=[0.1, 10.0],
        adam_betas="(0.9, 0.98)",
        lr=[0.0005],
        update_freq=[2],
        max_update=100,
        warmup_updates=5,
        seed=7,
        ddp_backend="no_c10d",
        max_tokens=1000,
        max_sample_size=None,
        of_another_module=3,
    )
    cfg = resolve_config(utils.convert_namespace_to_omegaconf(args))
    assert (cfg.model._name, cfg.model.encoder_embed_dim, cfg.model.latent_temp) == ("wav2vec2", 48, [2.0, 0.5, 0.9])
    assert (cfg.task.data, cfg.task.normalize, cfg.task.max_sample_size) == ("/somewhere", True, None)
    assert (cfg.criterion.infonce, cfg.criterion.loss_weights) == (True, [0.1, 10.0])
    assert (cfg.optimizer.lr, cfg.lr_scheduler.total_num_update, cfg.lr_scheduler.warmup_updates) == ([0.0005], 100, 5)
    assert (cfg.common.seed, cfg.optimization.update_freq, cfg.dataset.max_tokens_valid) == (7, [2], 1000)
    with pytest.raises(ValueError, match="dataset.max_tokens is 'many'"):
        utils.convert_namespace_to_omegaconf({"max_tokens": "many"})
