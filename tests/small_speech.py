"""Checkpoints of random weights, fine-tuned and pre-trained, and audio for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fairseq import checkpoint_utils, tasks

CONV = "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2"  # base's grid of frames: 400 samples every 320
PRETRAINING: dict[str, Any] = {
    "_name": "wav2vec2",
    "conv_feature_layers": CONV,
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "final_dim": 12,
    "latent_vars": 6,
    "quantize_targets": True,
    "conv_pos": 8,
    "conv_pos_groups": 4,
}
SYMBOLS = ["|", "A", "B", "C", "E", "T"]


def write_checkpoint(
    path: Path, *, fine_tuned: bool = True, seed: int = 0, normalize: bool = False, **model: Any
) -> Path:
    """A checkpoint of random weights; a fine-tuned one has its dictionary inside."""
    torch.manual_seed(seed)
    data = path.parent / "data"
    data.mkdir(exist_ok=True)
    (data / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in SYMBOLS))
    pretrained = {
        "task": {"_name": "audio_pretraining", "data": str(data), "normalize": normalize},
        "model": {**PRETRAINING, **model},
    }
    if fine_tuned:
        task_cfg: dict[str, Any] = {
            "_name": "audio_finetuning",
            "data": str(data),
            "labels": "ltr",
            "normalize": normalize,
        }
        cfg = OmegaConf.create(
            {"task": task_cfg, "model": {"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": pretrained}}
        )
    else:
        cfg = OmegaConf.create(pretrained)
    task = tasks.setup_task(cfg.task)
    built = task.build_model(cfg.model)
    if fine_tuned:  # loud enough to say something
        torch.nn.init.normal_(built.w2v_encoder.proj.weight, std=1.0)
        built.w2v_encoder.proj.bias.data[1:4] = -50  # neither <pad>, </s> nor <unk>
    state = {
        "cfg": OmegaConf.to_container(cfg),
        "model": built.state_dict(),
        "task_state": task.state_dict() if fine_tuned else {},
    }
    state |= {"optimizer_history": [{"num_updates": 7}], "extra_state": {}, "args": None}
    checkpoint_utils.torch_persistent_save(state, str(path))
    return path


def speech(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Noise and tones that change, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * time + rng.uniform(0, 6)) for _ in range(4))
    return (
        0.05 * tones * (1 + np.sin(2 * np.pi * rng.uniform(1, 4) * time)) + 0.01 * rng.standard_normal(len(time))
    ).astype(np.float32)


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Commands put a handler on standard error, which is the test's own."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before
