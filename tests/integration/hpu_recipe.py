"""The recipe's config for Gaudi at reduced width, over a corpus whose utterances fill all of its buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.initialize import resolve_config
from tests.integration.conftest import REPOSITORY, write_audio, write_manifest

YAML = REPOSITORY / "examples/wav2vec/config/pretraining/wav2vec2_base_librispeech_hpu.yaml"
# a tenth of the recipe's audio lengths, and a model of two narrow blocks; everything else is the YAML's
REDUCED: dict[str, Any] = {
    "common": {"hpu": False, "hmp": False, "hmp_bf16": "", "hmp_fp32": "", "log_format": "none", "log_interval": 4},
    "task": {"max_sample_size": 25000, "min_sample_size": 8000},
    "dataset": {"num_workers": 0, "max_tokens": 70000, "batch_size": 2},
    "optimization": {"update_freq": [2], "lr": [0.001]},
    "lr_scheduler": {"warmup_updates": 4},
    "model": {
        "encoder_embed_dim": 32,
        "encoder_layers": 2,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "final_dim": 16,
        "latent_vars": 8,
        "num_negatives": 10,
        "conv_pos": 16,
        "conv_pos_groups": 4,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    },
}


def recipe(data: Path, save_dir: Path, **groups: dict[str, Any]) -> DictConfig:
    """The resolved config; `groups` are put over the reduced one."""
    cfg = OmegaConf.merge(
        OmegaConf.load(YAML), REDUCED, groups, {"task": {"data": str(data)}, "checkpoint": {"save_dir": str(save_dir)}}
    )
    return resolve_config(cfg)


def write_corpus(root: Path, num_train: int = 56, num_valid: int = 8) -> Path:
    """Folder with train.tsv and valid.tsv: utterances of 0.55 to 1.65 s, of which the longest are cropped."""
    seconds = np.linspace(0.55, 1.65, num_train + num_valid)
    order = np.random.default_rng(0).permutation(num_train + num_valid)
    files = [root / "audio" / f"{i:02d}.flac" for i in range(num_train + num_valid)]
    for i, file in enumerate(files):
        write_audio(file, float(seconds[order[i]]), seed=i)
    write_manifest(root / "train.tsv", root, files[:num_train])
    write_manifest(root / "valid.tsv", root, files[num_train:])
    return root
