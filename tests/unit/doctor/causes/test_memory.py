"""Memory that grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairseq.doctor.causes.memory import memory_growing
from tests.unit.doctor.causes.made_rows import made

STEPS = np.arange(30)


def test_a_leak_is_named_with_its_speed_and_its_end() -> None:
    records = made(20, None, {"memory_gb": 16.0}, host_gb=2 + 0.1 * STEPS)
    found = memory_growing(records)
    assert found is not None and found.severity == "warning" and found.metric == "host_gb"
    assert "5 GB per 1,000 updates" in found.evidence[0] and "about update 2,820" in found.evidence[1]


def test_a_slow_leak_matters_if_it_ends_the_run() -> None:
    slow: dict[str, Any] = {"host_gb": 10 + 0.05 * STEPS}
    assert memory_growing(made(20, {"optimization": {"max_update": 1000}}, {"memory_gb": 16.0}, **slow)) is None
    assert memory_growing(made(20, {"optimization": {"max_update": 100000}}, {"memory_gb": 16.0}, **slow)) is not None
    assert memory_growing(made(20, {"optimization": {"max_update": 100000}}, **slow)) is None, "not known"


def test_a_device_s_memory() -> None:
    found = memory_growing(made(20, host_gb=[2.0] * 30, device_gb=10 + 0.3 * STEPS))
    assert found is not None and found.metric == "device_gb" and "memory of the device" in found.title


def test_healthy_memory() -> None:
    rng = np.random.default_rng(1)
    assert memory_growing(made(20, host_gb=3 - 2 * np.exp(-STEPS / 5))) is None, "caches fill"
    assert memory_growing(made(20, host_gb=np.minimum(1 + 0.2 * STEPS, 4))) is None, "the first epoch"
    assert memory_growing(made(20, host_gb=2 + 0.001 * STEPS)) is None, "1 %"
    assert memory_growing(made(20, host_gb=2 + rng.normal(0, 0.4, 30))) is None
    assert memory_growing(made(20, device_gb=np.maximum.accumulate(10 + rng.normal(0, 1, 30)))) is None
    assert memory_growing(made(20, loss=[6.0] * 30)) is None


def test_a_resumed_run_starts_again() -> None:
    assert memory_growing(made(20, starts=[500], host_gb=2 + 0.1 * STEPS)) is None, "too early after the start"
