"""Learning rates against fairseq-fixed 0.12.3.1's, at chosen updates within 1e-12: see `reference_data`."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fairseq.optim import build_optimizer
from fairseq.optim.lr_scheduler import build_lr_scheduler
from tests.parity import reference_data

NAMES = {
    "polynomial_decay": "polynomial_decay",
    "polynomial_decay_power2": "polynomial_decay",
    "tri_stage_phase_ratio": "tri_stage",
    "cosine": "cosine",
    "inverse_sqrt": "inverse_sqrt",
}


@pytest.mark.parametrize("key", NAMES)
def test_rates_equal_the_reference(key):
    reference = reference_data.load_json("lr_schedules")
    assert set(reference) == set(NAMES)
    config = reference[key]["config"]
    optimizer = build_optimizer(OmegaConf.create({"_name": "adam", "lr": config["lr"]}), [nn.Parameter(torch.zeros(1))])
    schedule = build_lr_scheduler(OmegaConf.create({"_name": NAMES[key], **config}), optimizer)
    for update, expected in reference[key]["lr_after_update"].items():
        assert abs(schedule.step_update(int(update)) - expected) <= 1e-12, f"{key} after update {update}"
