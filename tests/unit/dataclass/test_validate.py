"""What a config must satisfy, and that all that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.not_offered import NOT_OFFERED, NOT_OFFERED_VALUES, WITHOUT_EFFECT
from fairseq.dataclass.validate import check_devices, find_problems, validate_config


def config(**changes: Any) -> DictConfig:
    """A config without problems, with dotted keys changed: config(**{"common.fp16": True})."""
    base = OmegaConf.create(
        {
            "common": {},
            "task": {"_name": "audio_pretraining", "data": "d", "max_sample_size": 160000, "min_sample_size": 16000},
            "dataset": {"max_tokens": 640000},
            "criterion": {"_name": "wav2vec", "infonce": True, "log_keys": ["temp"], "loss_weights": [0.1, 10]},
            "optimization": {"max_update": 400, "lr": [0.0005]},
            "optimizer": {"_name": "adam", "adam_betas": "(0.9, 0.98)"},
            "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32},
            "model": {"_name": "wav2vec2", "quantize_targets": True, "final_dim": 256},
        }
    )
    for key, value in changes.items():
        if "." in key:
            OmegaConf.update(base, key, value, force_add=True)
        else:
            base[key] = value
    return resolve_config(base)


def errors(**changes: Any) -> list[str]:
    return find_problems(config(**changes), check_paths=False).errors


def warnings(**changes: Any) -> list[str]:
    return find_problems(config(**changes), check_paths=False).warnings


def test_a_good_config_has_no_problems() -> None:
    assert find_problems(config(), check_paths=False) == ([], [])
    assert validate_config(config(), devices=1, check_paths=False) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task.num_batch_buckets": 7},
            "task.num_batch_buckets=7 requires task.enable_padding=true.",
        ),
        ({"dataset.max_tokens": 150000}, "dataset.max_tokens is 150000 but task.max_sample_size is 160000"),
        ({"dataset.max_tokens_valid": 150000}, "dataset.max_tokens_valid is 150000 but task.max_sample_size"),
        ({"task.min_sample_size": 170000}, "task.min_sample_size is 170000, but task.max_sample_size is 160000"),
        ({"dataset.max_tokens": None}, "neither dataset.max_tokens"),
        ({"optimization.update_freq": []}, "optimization.update_freq is []"),
        ({"optimization.update_freq": [0]}, "optimization.update_freq is [0]"),
        ({"optimization.lr": [-1]}, "optimization.lr is [-1.0]"),
        ({"common.fp16": True, "common.bf16": True}, "common.fp16 and common.bf16 are both true"),
        ({"common.amp": True, "common.memory_efficient_bf16": True}, "common.amp and common.memory_efficient_bf16"),
        ({"optimizer.adam_betas": "(0.9,)"}, "optimizer.adam_betas is '(0.9,)'"),
        ({"optimizer.adam_betas": "__import__('os')"}, "optimizer.adam_betas is"),
        ({"optimization.max_update": 0, "optimization.max_epoch": 3}, "Set optimization.max_update"),
        (
            {"checkpoint.best_checkpoint_metric": "wer"},
            "best_checkpoint_metric is 'wer', which criterion wav2vec does not log",
        ),
        (
            {"checkpoint.best_checkpoint_metric": "loss_7"},
            "best_checkpoint_metric is 'loss_7', which criterion wav2vec does not log",
        ),
        ({"task.sample_rate": 0}, "task.sample_rate is 0: it must be at least 1"),
        ({"model.conv_pos": 0}, "model.conv_pos is 0: it must be at least 1"),
        ({"common.seed": -1}, "common.seed is -1: it must be at least 0"),
        ({"checkpoint.best_checkpoint_metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"checkpoint.best_checkpoint_metric": "probe_cer"}, "probe_cer, but dataset.probe_data is not set"),
        ({"dataset.probe_minutes": 0.0}, "dataset.probe_minutes is 0: it must be above 0 and at most 60"),
        ({"dataset.probe_data": "d", "dataset.disable_validation": True}, "probes run at validations"),
        (
            {"dataset.probe_data": "d", "distributed_training.ddp_backend": "fully_sharded"},
            "no process has the whole model",
        ),
        ({"checkpoint.patience": 3, "dataset.disable_validation": True}, "checkpoint.patience counts validations"),
        ({"model.conv_feature_layers": "[(512, 10"}, "model.conv_feature_layers '[(512, 10': expected ','"),
        (
            {"task.max_sample_size": 300, "task.min_sample_size": 0},
            "a frame of model.conv_feature_layers needs 400 samples",
        ),
        (
            {"task.inferred_w2v_config.conv_feature_layers": "[]"},
            "task.inferred_w2v_config.conv_feature_layers '[]' has no layers",
        ),
        (
            {"model.encoder_attention_heads": 7},
            "model.encoder_embed_dim is 768: model.encoder_attention_heads (7) must divide it",
        ),
        ({"model.conv_pos_groups": 7}, "model.conv_pos_groups (7) must divide"),
        (
            {"model.final_dim": 255},
            "model.final_dim is 255, the codewords' width: model.latent_groups (2) must divide it",
        ),
        ({"model.latent_dim": 9}, "model.latent_dim is 9, the codewords' width"),
        ({"model.num_negatives": 0}, "are all 0: the loss would always be 0"),
        ({"criterion.loss_weights": [0.1, 10, 1]}, "this model has 2 further losses (diversity, feature penalty)"),
        (
            {"criterion.loss_weights": [0.1, 10], "model.quantize_targets": False},
            "this model has 1 further losses (feature penalty)",
        ),
        ({"model.dropout": 1.5}, "model.dropout is 1.5: it must be from 0 to 1"),
        ({"ema.ema_decay": -0.1}, "ema.ema_decay is -0.1: it must be from 0 to 1"),
        ({"dataset.num_workers": -1}, "dataset.num_workers is -1: it must be at least 0"),
        ({"common.log_interval": 0}, "common.log_interval is 0: it must be at least 1"),
        ({"lr_scheduler": {"_name": "tri_stage", "phase_ratio": [0.1, 0.4, 0.4]}}, "three shares that sum to 1"),
        (
            {"lr_scheduler": {"_name": "cosine"}, "optimization.lr": [0.1, 0.2]},
            "lr_scheduler=cosine takes one learning rate",
        ),
        (
            {"task.multi_corpus_keys": "/a,b"},
            "task.multi_corpus_keys has '/a', which is an absolute path. It must list names of folders in task.data",
        ),
        ({"task.multi_corpus_keys": "a,b", "task.multi_corpus_sampling_weights": "1"}, "it must have 2 numbers"),
        ({"optimizer.use_fused": "maybe"}, "optimizer.use_fused is 'maybe': it must be auto, true or false"),
        ({"common.hpu": True, "common.cpu": True}, "common.hpu and common.cpu are both true: set one of them to false"),
        ({"common.hpu": True, "common.device": "cpu"}, "common.hpu is true but common.device is cpu"),
        ({"common.hmp": True, "common.hmp_opt_level": "O2"}, "dropped with release 1.13 of its software"),
        ({"common.hmp": True, "common.hmp_opt_level": "O3"}, "common.hmp_opt_level is 'O3': it must be O1"),
        (
            {"common.hpu": True, "common.hpu_compile": "compile"},
            "common.hpu_compile is compile, which requires eager mode",
        ),
        (
            {"common.hpu": True, "common.hpu_lazy_mode": False, "common.hpu_compile": "hpu_graphs"},
            "common.hpu_compile is hpu_graphs, which requires lazy mode",
        ),
        (
            {"common.hpu": True, "common.hpu_compile": "hpu_graphs", "model.checkpoint_activations": True},
            "common.hpu_compile is hpu_graphs and model.checkpoint_activations is true",
        ),
        (
            {
                "common.hpu": True,
                "common.hpu_lazy_mode": False,
                "common.hpu_compile": "compile",
                "model.checkpoint_activations": True,
            },
            "common.hpu_compile is compile and model.checkpoint_activations is true",
        ),
        (
            {
                "common.hpu": True,
                "common.hpu_compile": "hpu_graphs",
                "model.logit_temp_start": 1.0,
                "model.logit_temp_updates": 9,
            },
            "compiled graphs would keep the temperature of their first update",
        ),
        ({"distributed_training.ddp_backend": "slowmo"}, "ddp_backend is 'slowmo', which is not offered: use"),
        (
            {"distributed_training.ddp_backend": "fully_sharded", "distributed_training.ddp_comm_hook": "bf16"},
            "ddp_comm_hook is bf16, but ddp_backend=fully_sharded always exchanges gradients in fp32",
        ),
        ({"distributed_training.cpu_offload": True}, "cpu_offload is true, but it applies only to ddp_backend=fully"),
        (
            {"common.hpu": True, "distributed_training.ddp_comm_hook": "bf16"},
            "ddp_backend is pytorch_ddp, but hpu cannot exchange gradients that way",
        ),
        (
            {"common.cpu": True, "distributed_training.ddp_comm_hook": "bf16"},
            "ddp_backend is pytorch_ddp, but cpu cannot exchange gradients that way",
        ),
        (
            {"common.hpu": True, "distributed_training.ddp_backend": "fully_sharded"},
            "so a step cannot be one graph. Set common.hpu_lazy_mode=false, or ddp_backend=flat",
        ),
        ({"distributed_training.slowmo_momentum": 0.5}, "slowmo_momentum is 0.5, which is not offered"),
        ({"common.tpu": True}, "common.tpu is True, which is not offered: train on CPU or CUDA"),
        ({"task.tpu": True}, "task.tpu is True, which is not offered"),
        ({"task.data": "???"}, "task.data is not set"),
        ({"optimizer": None}, "optimizer is not set: optimizer._name must be one of adam, composite"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    found = errors(**changes)
    assert len(found) == 1, found
    assert message in found[0]


def test_sharding_needs_a_newer_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "distributed_training.ddp_backend": "fully_sharded",
        "distributed_training.no_reshard_after_forward": True,
    }
    assert errors(**changes) == []
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    (found,) = errors(**changes)
    assert "requires torch 2.6 or later, but this is torch 2.5.1+cpu. Update torch, or set ddp_backend=" in found


def test_flat_sends_half_precision_on_every_device() -> None:
    for device in ("common.hpu", "common.cpu"):
        flat = {"distributed_training.ddp_backend": "flat", "distributed_training.ddp_comm_hook": "bf16"}
        assert errors(**{device: True}, **flat) == []


def test_one_cause_is_told_once() -> None:
    assert len(errors(**{"common.tpu": True})) == 1  # task.tpu, optimizer.tpu and others refer to it
    assert len(errors(**{"common.model_parallel_size": 2})) == 1


def test_what_follows_from_a_known_problem_is_not_told() -> None:
    cfg = config(**{"dataset.max_tokens": None, "optimization.max_update": 0})
    assert len(find_problems(cfg, check_paths=False).errors) == 2
    known = [
        "optimization.max_update is 2.5: it must be a whole number.",
        "optimization.batch_size is no key: 'dataset.batch_size'?",
    ]
    assert find_problems(cfg, check_paths=False, after=known).errors == []
    assert (
        len(find_problems(cfg, check_paths=False, after=["common.max_update is not a known key.", *known[:1]]).errors)
        == 1
    )
    cfg.task = None
    assert "task is not set" in find_problems(cfg, check_paths=False, after=known).errors[0]
    assert find_problems(cfg, check_paths=False, after=["task is 3: it must be a group of keys.", *known]).errors == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_scheduler.warmup_updates": 32000}, "the run ends during warm-up, 1.2% of the way"),
        ({"optimization.lr": [0.25]}, "Adam diverges"),
        ({"optimization.max_update": 0, "lr_scheduler": "fixed"}, "the run ends only when it is stopped"),
        ({"checkpoint.best_checkpoint_metric": "accuracy"}, "the worst checkpoint would be kept"),
        (
            {
                "checkpoint.best_checkpoint_metric": "probe_cer",
                "checkpoint.maximize_best_checkpoint_metric": True,
                "dataset.probe_data": "d",
            },
            "maximize_best_checkpoint_metric is true and checkpoint.best_checkpoint_metric is probe_cer",
        ),
        ({"checkpoint.maximize_best_checkpoint_metric": True}, "the worst checkpoint would be kept"),
        ({"checkpoint.keep_interval_updates": 1}, "no effect while checkpoint.save_interval_updates is 0"),
        ({"checkpoint.no_save": True, "checkpoint.save_interval_updates": 5}, "no checkpoints are written"),
        ({"checkpoint.no_last_checkpoints": True}, "resumes from the newest of the other checkpoints"),
        ({"dataset.valid_subset": "valid,train"}, "contains the training data"),
        ({"model.extractor_mode": "layer_norm"}, "task.normalize is false"),
        ({"criterion.infonce": False}, "criterion.infonce is false"),
        ({"distributed_training.fast_stat_sync": True}, "has no effect: statistics"),
    ],
)
def test_warnings(changes: dict[str, Any], message: str) -> None:
    problems = find_problems(config(**changes), check_paths=False)
    assert problems.errors == []
    assert len(problems.warnings) == 1 and message in problems.warnings[0]


def test_everything_is_told_together() -> None:
    with pytest.raises(ConfigError) as error:
        validate_config(
            config(
                **{"task.num_batch_buckets": 7, "common.tpu": True, "distributed_training.distributed_world_size": 64}
            ),
            devices=1,
        )
    assert len(error.value.problems) == 4  # and task.data, which is not there


def test_too_few_devices_names_the_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    stock = config(**{"distributed_training.distributed_world_size": 64})
    [message] = check_devices(stock, 1, 1)
    assert message.endswith("distributed_training.distributed_world_size=1 optimization.update_freq=[64]")
    [message] = check_devices(
        config(**{"distributed_training.distributed_world_size": 64, "optimization.update_freq": [1, 3]}), 5, 5
    )
    assert message.endswith("distributed_world_size=5 optimization.update_freq=[13,39]")
    [message] = check_devices(stock, 4, 1)
    assert "at most 4" in message and message.endswith("distributed_world_size=1 optimization.update_freq=[64]")
    assert check_devices(stock, 64, 64) == []


def test_under_a_launcher_its_numbers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = config(**{"distributed_training.distributed_world_size": 64})
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert check_devices(stock, 2, 2) == []
    [message] = check_devices(stock, 1, 1)
    assert "started 2 processes" in message and "--nproc_per_node=1" in message


def test_missing_data_is_told_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [message] = find_problems(config(**{"task.data": "nowhere"})).errors
    assert str(tmp_path) in message and "'nowhere'" in message
    (tmp_path / "train.tsv").touch()
    (tmp_path / "dev.tsv").touch()
    [message] = find_problems(config(**{"task.data": "."})).errors
    assert "dataset.valid_subset is 'valid'" in message and "the folder has dev, train" in message
    assert find_problems(config(**{"task.data": ".", "dataset.valid_subset": "dev"})).errors == []
    assert find_problems(config(**{"task.data": ".", "dataset.disable_validation": True})).errors == []
    found = find_problems(
        config(**{"task.data": ".", "dataset.valid_subset": "dev", "checkpoint.finetune_from_model": "gone.pt"})
    ).errors
    assert len(found) == 1 and "checkpoint.finetune_from_model is 'gone.pt'" in found[0]
    found = find_problems(
        config(**{"task.data": ".", "dataset.valid_subset": "dev", "checkpoint.save_dir": "dev.tsv"})
    ).errors
    assert len(found) == 1 and "it must be a folder" in found[0]


def tuning(**changes: Any) -> DictConfig:
    """The same of fine-tuning."""
    groups = {
        "task": {"_name": "audio_finetuning", "data": "d", "labels": "ltr"},
        "criterion": {"_name": "ctc", "zero_infinity": True},
        "model": {"_name": "wav2vec_ctc", "w2v_path": "w.pt"},
    }
    base = OmegaConf.merge(
        OmegaConf.masked_copy(config(), ["common", "dataset", "optimization", "optimizer", "checkpoint"]), groups
    )
    for key, value in changes.items():
        OmegaConf.update(base, key, value, force_add=True, merge=False)
    return resolve_config(base)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({}, None),
        ({"checkpoint.best_checkpoint_metric": "wer"}, None),
        ({"dataset.probe_data": "d"}, "The probe measures pre-training"),
        ({"checkpoint.best_checkpoint_metric": "accuracy"}, "criterion ctc does not log"),
        ({"task.labels": None}, "task.labels is not set"),
        ({"task.num_batch_buckets": 3}, None),
        ({"model": {"_name": "wav2vec2"}}, "do not go together"),
        ({"task": {"_name": "audio_pretraining", "data": "d"}}, "do not go together"),
        ({"task": {"_name": "audio_pretraining", "data": "d", "labels": "ltr"}}, None),
        ({"task.eval_bleu": True}, "task.eval_bleu is True, which is not offered"),
        ({"task.autoregressive": True}, "task.autoregressive is True, which is not offered"),
        ({"criterion.wer_kenlm_model": "lm.bin"}, "fairseq-infer decodes"),
        (
            {"criterion.wer_args": ["lm.bin", "lexicon.txt", 2, -1]},
            "criterion.wer_args names lm.bin and lexicon.txt: validation decodes",
        ),
        (
            {"criterion.wer_args": "('lm.bin', None, 2, -1)"},
            "criterion.wer_args names lm.bin: validation decodes greedily",
        ),
        (
            {"criterion.wer_args": ["lm.bin"]},
            "criterion.wer_args is ['lm.bin']: it must be a list of language model, lexicon",
        ),
        ({"criterion.wer_args": [None, None, 2, -1]}, None),
        ({"model.layer_type": "trf_adp", "model.adp_num": 1}, None),
        ({"model.layer_type": "trf_adp"}, "model.layer_type=trf_adp adds adapters. Set model.adp_num=1"),
        ({"model.adp_num": 1}, "model.adp_num is 1, but only model.layer_type=trf_adp adds adapters"),
    ],
)
def test_fine_tuning(changes: dict[str, Any], told: str | None) -> None:
    errors = find_problems(tuning(**changes), check_paths=False).errors
    assert (errors == []) if told is None else (len(errors) == 1 and told in errors[0]), errors


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            {"_name": "hubert", "label_rate": 50},
            "model._name=hubert cannot be trained here: it opens, gives features, and is fine-tuned.",
        ),
        ({"_name": "data2vec_audio"}, "model._name=data2vec_audio cannot be trained here"),
        ({"_name": "hubert_ctc", "w2v_path": "w.pt"}, "To fine-tune a HuBERT, set model=wav2vec_ctc"),
    ],
)
def test_models_that_only_open(model: dict[str, Any], told: str) -> None:
    errors = find_problems(tuning(model=model), check_paths=False).errors
    assert any(told in error for error in errors)


def test_a_best_metric_that_nobody_counts() -> None:
    """A plug-in's criterion has error rates only where the task counts them."""
    cfg = tuning(**{"checkpoint.best_checkpoint_metric": "wer"})
    cfg.criterion = {"_name": "mine"}
    [error] = find_problems(cfg, check_paths=False).errors
    assert "'wer', but criterion mine does not count errors" in error
    cfg.task.eval_wer = True
    assert find_problems(cfg, check_paths=False).errors == []


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model.freeze_finetune_updates": 400}, "only the output layer is trained"),
        ({"task.labels": "wrd"}, "criterion.post_process is letter but task.labels is wrd"),
        ({"task.labels": "phn", "criterion.post_process": "none"}, None),
        ({"model.encoder_embed_dim": 1024}, "have no effect in fine-tuning"),
        ({"task.inferred_w2v_config": {}}, "task.inferred_w2v_config has no effect"),
        ({"task.eval_wer_config.beam": 7}, "task.eval_wer_config is"),
        ({"model.update_alibi": False}, "model.update_alibi is False"),
    ],
)
def test_what_fine_tuning_may_regret(changes: dict[str, Any], told: str | None) -> None:
    problems = find_problems(tuning(**changes), check_paths=False)
    assert problems.errors == []
    assert (problems.warnings == []) if told is None else (len(problems.warnings) == 1 and told in problems.warnings[0])


@pytest.mark.slow
def test_files_of_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.tsv", "valid.tsv", "train.ltr"):
        (tmp_path / name).touch()
    errors = find_problems(tuning(**{"task.data": "."})).errors
    assert len(errors) == 3
    assert "valid.ltr does not exist" in errors[0] and "dict.ltr.txt, which does not exist" in errors[1]
    assert "model.w2v_path is 'w.pt'" in errors[2]
    for name in ("valid.ltr", "dict.ltr.txt"):
        (tmp_path / name).touch()
    (tmp_path / "w.pt").mkdir()  # a folder may be a model too
    (tmp_path / "valid.tsv").rename(tmp_path / "valid.tsv.gz")
    assert find_problems(tuning(**{"task.data": "."})).errors == []
    given = tuning(**{"task.data": ".", "model.w2v_path": "gone.pt", "model.w2v_args": {"model": {}}})
    assert find_problems(given).errors == []


def test_tables_name_keys_that_exist() -> None:
    cfg = config()
    keys = {f"{group}.{name}" for group in cfg if isinstance(cfg[group], DictConfig) for name in cfg[group]}
    keys |= {
        f"{group}.{name}"
        for group, members in CONFIG_GROUPS.items()
        for m in members.values()
        for name in m.field_defaults()
    }
    for key in (*NOT_OFFERED, *NOT_OFFERED_VALUES, *WITHOUT_EFFECT):
        assert key in keys or any(other.startswith(key[:-1]) for other in keys if key.endswith("*")), key


@pytest.mark.slow
def test_files_of_several_corpora(tmp_path: Path) -> None:
    """A folder for each corpus, or a manifest named for each."""
    for name in (
        "books/train.tsv",
        "books/train.ltr",
        "calls/train.tsv",
        "valid.tsv",
        "valid.ltr",
        "dict.ltr.txt",
        "w.pt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    changes = {
        "task.data": str(tmp_path),
        "task.multi_corpus_keys": "books,calls",
        "model.w2v_path": str(tmp_path / "w.pt"),
        "dataset.valid_subset": "books:valid",
    }
    (error,) = find_problems(tuning(**changes)).errors
    assert "calls/train.ltr does not exist" in error
    (tmp_path / "calls/train.ltr").touch()
    assert find_problems(tuning(**changes)).errors == []
    (tmp_path / "calls/train.tsv").unlink()
    (error,) = find_problems(tuning(**changes)).errors
    assert "calls/train.tsv does not exist: the folder has books/train, valid" in error
