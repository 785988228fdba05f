"""Completing and resolving whole configs."""

from __future__ import annotations

import pickle

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import add_defaults, hydra_init, resolve_config
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
        "comon is not a known group of the config. Did you mean 'common'",
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
    cfg = {**MINIMAL, "job_logging_cfg": {"version": 1}, "model": {"_name": "wav2vec2", "of_the_future": 1}, "new_group": {}}
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
