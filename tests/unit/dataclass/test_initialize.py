"""Completing and resolving whole configs."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from fairseq.dataclass import interpolations
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import add_defaults, hydra_init, resolve_config, try_resolve
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS

MINIMAL = {
    "task": {"_name": "audio_pretraining", "data": "/somewhere"},
    "model": {"_name": "wav2vec2"},
    "criterion": "wav2vec",
    "optimizer": {"_name": "adam", "adam_eps": "1e-06"},
    "optimization": {"lr": [0.0005], "max_update": 100},
    "common": {"seed": 5},
}


def test_every_group_is_there_and_plain() -> None:
    cfg = resolve_config(OmegaConf.create(MINIMAL))
    assert set(cfg) == {"_name", *FIXED_GROUPS, *REGISTRY_GROUPS}
    assert cfg.task.seed == 5 and cfg.optimizer.lr == [0.0005] and cfg.lr_scheduler._name == "fixed"
    assert cfg.optimizer.adam_eps == 1e-06 and cfg.criterion.infonce is False
    assert type(cfg.model.extractor_mode) is str and cfg.bpe is None
    assert "${" not in OmegaConf.to_yaml(cfg)
    assert pickle.loads(pickle.dumps(cfg)) == cfg  # spawned processes get it pickled
    with pytest.raises(Exception, match="seeed"):
        cfg.common.seeed = 3
    assert resolve_config(cfg) == cfg


def test_no_run_sees_another_ones_changes() -> None:
    """Groups that a config does not mention come from defaults that are built once."""
    for _ in range(2):
        cfg, completed = resolve_config(OmegaConf.create({})), OmegaConf.create({})
        add_defaults(completed)
        for each in (cfg, completed):
            assert (each.dataset.num_workers, list(each.optimization.lr)) == (1, [0.25])
            each.dataset.num_workers = 7
            each.optimization.lr.append(7.0)


def test_add_defaults_keeps_interpolations() -> None:
    cfg = OmegaConf.create(MINIMAL)
    add_defaults(cfg)
    assert OmegaConf.to_container(cfg)["optimizer"]["lr"] == "${optimization.lr}"
    cfg.optimization.lr = [0.1]
    assert cfg.optimizer.lr == [0.1]


def test_all_problems_at_once() -> None:
    cfg = {
        **MINIMAL,
        "comon": {},
        "common": {"seed": "five", "seeed": 5},
        "model": {"_name": "wav2vec", "encoder_layers": 3},
        "task": {"_name": "audio_pretraining", "data": "x", "min_sample_size": "${task.nothing}"},
        "dataset": 3,
    }
    with pytest.raises(ConfigError) as error:
        resolve_config(cfg)
    text = str(error.value)
    assert len(error.value.problems) == 6
    for part in (
        "comon is not a known config group. Did you mean 'common'",
        "common.seeed is not a known key. Did you mean 'seed'",
        "common.seed is 'five'",
        "model._name 'wav2vec' is not known. Did you mean 'wav2vec2'",
        "task.min_sample_size is '${task.nothing}'",
        "dataset is 3",
    ):
        assert part in text


def test_config_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
    assert error.problems == ["a", "b"] and "2 problems" in str(error)


def test_class_named_by_the_folder_of_its_yaml() -> None:
    cfg = resolve_config({**MINIMAL, "model": {"wav2vec2": {"encoder_layers": 3}, "final_dim": 8}})
    assert (cfg.model._name, cfg.model.encoder_layers, cfg.model.final_dim) == ("wav2vec2", 3, 8)


def test_missing_values_stay_missing() -> None:
    cfg = resolve_config({**MINIMAL, "task": {"_name": "audio_pretraining"}})
    assert OmegaConf.missing_keys(cfg) == {"task.data"}


def test_configs_of_other_generations() -> None:
    cfg = {
        **MINIMAL,
        "job_logging_cfg": {"version": 1},
        "model": {"_name": "wav2vec2", "of_the_future": 1},
        "new_group": {},
    }
    assert resolve_config(cfg, remove_missing=True).model.encoder_layers == 12
    with pytest.raises(ConfigError, match="2 problems"):
        resolve_config(cfg)


def test_groups_are_in_hydras_store() -> None:
    hydra_init()
    node = ConfigStore.instance().repo["model"]["wav2vec2.yaml"].node
    assert node._name == "wav2vec2" and node.encoder_layers == 12
    assert "config.yaml" not in ConfigStore.instance().repo
    hydra_init("whole")
    assert ConfigStore.instance().repo["whole.yaml"].node.dataset.num_workers == 1


# -- interpolations ----------------------------------------------------------------------------------------------------


def test_an_environment_variable_is_a_number_where_one_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "1e3")
    monkeypatch.setenv("RATE", "0.25")
    cfg = resolve_config({**MINIMAL, "optimization": {"max_update": "${oc.env:STEPS}", "lr": ["${oc.env:RATE}"]}})
    assert cfg.optimization.max_update == 1000 and type(cfg.optimization.max_update) is int
    assert cfg.optimization.lr == [0.25] and cfg.optimizer.lr == [0.25]


def problems_of(monkeypatch: pytest.MonkeyPatch, **groups: Any) -> list[str]:
    monkeypatch.setenv("STEPS", "many")
    monkeypatch.delenv("NOT_SET", raising=False)
    return try_resolve({**MINIMAL, **groups})[1]


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        (
            {"optimization": {"max_update": "${oc.env:STEPS}"}},
            "optimization.max_update is '${oc.env:STEPS}', which is 'many': it must",
        ),
        (
            {"optimization": {"max_update": "${oc.env:NOT_SET}"}},
            "but the environment variable NOT_SET is not set: set it, or write",
        ),
        ({"optimization": {"max_update": "${dataset}"}}, "optimization.max_update is '${dataset}', which is {"),
        (
            {"model": {"_name": "wav2vec2", "encoder_layers": "${model}"}},
            "model.encoder_layers is '${model}', which refers to itself",
        ),
        (
            {"optimization": {"lr": ["${optimization.lr}"]}},
            "optimization.lr is '${optimization.lr}', which refers to itself",
        ),
        (
            {"common": {"seed": "${common.seeed}"}},
            "which refers to a key that this config does not have. Set common.seed to a value.",
        ),
        ({"common": {"seed": "${common.seed.x}"}}, "common.seed is '${common.seed.x}', which"),
        (
            {"common": {"seed": "${nothing:1}"}},
            "common.seed is '${nothing:1}', which cannot be read: Unsupported interpolation type",
        ),
        ({"common": {"seed": "${"}}, "common.seed is '${': it must be a whole number"),
        ({"model": {"_name": ["wav2vec2"]}}, "model._name is ['wav2vec2']: it must be one of"),
    ],
)
def test_interpolations_without_a_value(groups: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence each, and none about the keys that refer to the same key by default."""
    [found] = problems_of(monkeypatch, **groups)
    assert problem in found


def test_every_key_of_a_circle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems_of(
        monkeypatch,
        dataset={"batch_size": "${optimization.max_update}"},
        optimization={"max_update": "${dataset.batch_size}"},
    )
    assert [problem.split(" ")[0] for problem in found] == ["dataset.batch_size", "optimization.max_update"]


def test_interpolations_that_multiply_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpolations, "MAX_NODES", 2000)
    levels = {f"level{number}": [f"${{model.level{number - 1}}}"] * 10 for number in range(1, 9)}
    with pytest.raises(
        ConfigError, match=r"model\.level\d: interpolations expand this config to more than 2,000 values"
    ):
        problems_of(monkeypatch, model={"_name": "unknown_model", "level0": 1, **levels})


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({"max_update": 100}, "max_update is not a known config group. Did you mean 'optimization.max_update'?"),
        (
            {"optimization": {"batch_size": 4}},
            "optimization.batch_size is not a known key. Did you mean 'dataset.batch_size'?",
        ),
        ({"seed": 5}, "Did you mean 'common.seed'?"),
        (
            {"criterion": {"_name": "wav2vec", "wer_args": None}},
            "criterion.wer_args is not a known key. It belongs to criterion ctc.",
        ),
        (
            {"run_config": "slurm_1"},
            "No config folder has run_config/slurm_1.yaml: to select it, put it into the folder of --config-dir",
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_named_with_the_right_one(
    groups: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [found] = problems_of(monkeypatch, **groups)
    assert problem in found


def test_none_as_text_in_a_checkpoint_is_null() -> None:
    assert (
        resolve_config({**MINIMAL, "dataset": {"batch_size": "None"}}, remove_missing=True).dataset.batch_size is None
    )
