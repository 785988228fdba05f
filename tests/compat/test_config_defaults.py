"""Fields and defaults of the config dataclasses: fairseq's, both generations, and our additions by name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.criterions.wav2vec_criterion import Wav2VecCriterionConfig
from fairseq.dataclass import configs
from fairseq.dataclass.utils import plain
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2AsrConfig, Wav2Vec2CtcConfig
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.composite import CompositeOptimizerConfig, OptimizerAndSchedulerConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRScheduleConfig
from fairseq.optim.lr_scheduler.fixed_schedule import FixedLRScheduleConfig
from fairseq.optim.lr_scheduler.inverse_square_root_schedule import InverseSquareRootLRScheduleConfig
from fairseq.optim.lr_scheduler.polynomial_decay_schedule import PolynomialDecayLRScheduleConfig
from fairseq.optim.lr_scheduler.tri_stage_lr_scheduler import TriStageLRScheduleConfig
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, InferredW2vConfig

# fields of fairseq-fixed 0.12.3.1 and of the tag v0.12.2 together, with their defaults
GOLDEN = json.loads((Path(__file__).parent / "data/config_defaults.json").read_text(encoding="utf-8"))
DATACLASSES = {
    cls.__name__: cls
    for cls in (
        *(getattr(configs, name) for name in configs.__all__),
        Wav2VecCriterionConfig,
        Wav2Vec2Config,
        FairseqAdamConfig,
        CompositeOptimizerConfig,
        OptimizerAndSchedulerConfig,
        CosineLRScheduleConfig,
        FixedLRScheduleConfig,
        InverseSquareRootLRScheduleConfig,
        PolynomialDecayLRScheduleConfig,
        TriStageLRScheduleConfig,
        AudioPretrainingConfig,
        InferredW2vConfig,
        AudioFinetuningConfig,
        CtcCriterionConfig,
        Wav2Vec2AsrConfig,
        Wav2Vec2CtcConfig,
    )
}
HPU = {"hpu", "hpu_lazy_mode", "hmp", "hmp_bf16", "hmp_fp32", "hmp_opt_level", "hmp_verbose", "hpu_compile"} | {
    "hpu_optimize_ddp",
    "hpu_compiled_autograd",
}
TUNING = {"tuning", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}
ADDITIONS = {
    # plasma_path: its default is a folder of the machine
    "CommonConfig": {"threads_per_process", "plasma_path", "device", "doctor", "report", "mlflow_experiment", *HPU},
    "FairseqAdamConfig": {"use_fused"},
    "CompositeOptimizerConfig": {"lr", "layer_decay"},
    "OptimizerAndSchedulerConfig": {"pattern", "lr_scale"},
    "DistributedTrainingConfig": {"compare_ranks_interval", "distributed_timeout", "keep_update_size", "max_restarts"},
    "CheckpointConfig": {"async_save", "consolidate", "continue_pretraining", "store"},
    "DatasetConfig": {"probe_data", "probe_labels", "probe_minutes"},
    "OptimizationConfig": {"max_nonfinite_updates"},
    "Wav2Vec2Config": {"logit_temp_start", "logit_temp_updates", "mask_emb_init"},
    "Wav2Vec2AsrConfig": TUNING,
    "Wav2Vec2CtcConfig": TUNING,
    "AudioPretrainingConfig": {
        "resample",
        "max_quarantined_share",
        "cache_dir",
        "cache_gb",
        "multi_corpus_sampling_alpha",
    },
    "AudioFinetuningConfig": {
        "resample",
        "max_quarantined_share",
        "cache_dir",
        "cache_gb",
        "multi_corpus_sampling_alpha",
        "eval_uer",
        "skip_unusable_labels",
        "augment",
    },
}


def defaults(cls: type) -> dict[str, Any]:
    values = plain(OmegaConf.create(plain(cls())))
    return {f.name: values[f.name] for f in fields(cls) if f.name != "_name"}


@pytest.mark.parametrize("name", GOLDEN)
def test_defaults_are_fairseqs(name: str) -> None:
    ours = defaults(DATACLASSES[name])
    assert set(ours) - set(GOLDEN[name]) == ADDITIONS.get(name, set())
    assert {key: ours[key] for key in GOLDEN[name]} == GOLDEN[name]


def test_golden_defaults_are_the_reference(shared_dir: Path) -> None:
    reference = json.loads((shared_dir / "reference/configs/defaults.json").read_text(encoding="utf-8"))
    for name, values in GOLDEN.items():
        for key, default in values.items():
            told = reference.get(name, {}).get(key, {"main only": default})
            told = told["main only"] if isinstance(told, dict) and "main only" in told else told
            as_call = (
                f"GenerationConfig({', '.join(f'{k}={v}' for k, v in default.items())})"
                if isinstance(default, dict)
                else None
            )
            spelled = (default, str(default), as_call)  # the reference spells an empty dict and a dataclass as text
            assert told in spelled, f"{name}.{key}"


def test_whole_config_has_fairseqs_groups() -> None:
    groups = {f.name for f in fields(configs.FairseqConfig)}
    assert groups >= {
        "common",
        "common_eval",
        "distributed_training",
        "dataset",
        "optimization",
        "checkpoint",
        "bmuf",
        "generation",
        "eval_lm",
        "interactive",
        "model",
        "task",
        "criterion",
        "optimizer",
        "lr_scheduler",
        "scoring",
        "bpe",
        "tokenizer",
        "ema",
    }
