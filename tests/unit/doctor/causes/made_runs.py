"""Made-up records of small runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairseq.doctor.records import INTERVAL, Records, Rows

EVERY = 20
PRETRAINING: dict[str, Any] = {
    "optimization": {"max_update": 400, "lr": [0.0005]},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32, "total_num_update": 400},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)"},
    "criterion": {"_name": "wav2vec", "loss_weights": [0.1, 10]},
    "task": {"sample_rate": 16000},
    "model": {
        "_name": "wav2vec2",
        "encoder_embed_dim": 192,
        "num_negatives": 100,
        "latent_vars": 64,
        "latent_groups": 2,
        "latent_temp": [2, 0.5, 0.999995],
        "feature_grad_mult": 0.1,
        "mask_prob": 0.65,
        "mask_length": 10,
        "mask_selection": "static",
        "mask_other": 0.0,
        "no_mask_overlap": False,
        "mask_min_space": 1,
    },
}
CTC: dict[str, Any] = {
    "optimization": {"max_update": 400, "lr": [0.001]},
    "lr_scheduler": {"_name": "tri_stage", "phase_ratio": [0.1, 0.5, 0.4]},
    "model": {"_name": "wav2vec_ctc", "freeze_finetune_updates": 0},
}


def changed(config: Mapping[str, Any], **groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with some keys of some groups changed."""
    return {group: {**values, **groups.get(group, {})} for group, values in config.items()}


def rates(count: int, config: Mapping[str, Any] = PRETRAINING) -> np.ndarray:
    """Return the rate at each row of a linear warm-up and decay."""
    updates = EVERY * np.arange(1, count + 1)
    warm, end = 32, config["optimization"]["max_update"]
    return config["optimization"]["lr"][0] * np.clip(np.minimum(updates / warm, (end - updates) / (end - warm)), 0, 1)


def noisy(values: Sequence[float] | np.ndarray, share: float = 0.02, seed: int = 1) -> np.ndarray:
    """Multiply with noise of this deviation."""
    return np.asarray(values) * np.exp(np.random.default_rng(seed).normal(0, share, len(values)))


def of(
    columns: Mapping[str, Sequence[float] | np.ndarray],
    config: Mapping[str, Any] | None = None,
    valid: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    valid_every: int = 100,
    codes: Sequence[Mapping[str, Any]] = (),
) -> Records:
    """Make records with a row every 20 updates, and a validation every 100."""
    rows = {INTERVAL: _rows(columns, EVERY)}
    if valid is not None:
        rows["valid"] = _rows(valid, valid_every)
    return Records(rows, PRETRAINING if config is None else config, codes=codes)


def _rows(columns: Mapping[str, Sequence[float] | np.ndarray], every: int) -> Rows:
    count = min(len(column) for column in columns.values())
    return Rows(
        {"num_updates": every * (i + 1), "epoch": 1, **{name: float(column[i]) for name, column in columns.items()}}
        for i in range(count)
    )


def healthy(count: int = 20, **others: Sequence[float] | np.ndarray) -> dict[str, Sequence[float] | np.ndarray]:
    """Return the columns of a run that leaves the plateau after 120 updates, as `tiny.yaml` does."""
    steps = np.arange(count)
    return {
        "loss_0": np.where(steps < 6, 6.658, 6.658 - 0.05 * (steps - 5)),
        "loss_1": noisy(np.full(count, 0.03)),
        "loss_2": noisy(np.maximum(0.02, 1.3 * 0.1**steps)),
        "accuracy": np.where(steps < 6, 0.018, 0.018 + 0.005 * (steps - 5)),
        "prob_perplexity": np.where(steps < 6, 115.0, 85.0),
        "code_perplexity": np.where(steps < 6, 105.0, 70.0),
        "temp": np.full(count, 2.0),
        "gnorm": noisy(np.where(steps < 6, 0.2, np.minimum(0.2 * 1.4 ** np.maximum(0, steps - 5), 1.4))),
        "lr": rates(count),
        "audio_s_per_update": np.full(count, 35.0),
        "bsz": np.full(count, 7.0),
        "wpb": np.full(count, 750.0),
        **others,
    }
