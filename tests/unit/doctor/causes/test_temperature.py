"""The Gumbel temperature."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.temperature import temperature_too_fast
from tests.unit.doctor.causes.made_runs import PRETRAINING, changed, healthy, of


def cooling(factor: float, count: int = 10) -> np.ndarray:
    return np.maximum(0.5, 2 * factor ** (20.0 * np.arange(1, count + 1)))


def test_a_floor_within_the_warm_up_is_found_with_a_factor_to_set():
    config = changed(PRETRAINING, model={"latent_temp": [2, 0.5, 0.9]})
    found = temperature_too_fast(of(healthy(10, temp=cooling(0.9)), config))
    assert found is not None and found.begin == 14 and "model.latent_temp=[2,0.5,0.995061" in found.change
    assert "by update 14 of 400" in found.evidence[0] and "until update 32" in found.evidence[1]


def test_slow_constant_and_unknown_temperatures_are_healthy():
    assert temperature_too_fast(of(healthy(20))) is None
    late = changed(PRETRAINING, model={"latent_temp": [2, 0.5, 0.99]})  # 138 of 400 updates
    assert temperature_too_fast(of(healthy(20, temp=cooling(0.99, 20)), late)) is None
    constant = changed(PRETRAINING, model={"latent_temp": [0.5, 0.5, 1.0]})
    assert temperature_too_fast(of(healthy(10, temp=np.full(10, 0.5)), constant)) is None
    assert temperature_too_fast(of(healthy(10), {})) is None
