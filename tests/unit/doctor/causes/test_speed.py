"""The run becomes slower and slower."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.doctor.causes.speed import throughput_falling
from tests.unit.doctor.causes.made_rows import made

STEPS = np.arange(20)
FALLING = 80 / (1 + 0.1 * STEPS)
BUSY = 100 * FALLING / 80  # host_cpu, where other programs take more and more of one core


def test_a_core_that_works_longer_and_longer_for_the_same_audio() -> None:
    noise = np.exp(np.random.default_rng(1).normal(0, 0.05, 20))
    records = made(20, None, {"device": "cpu"}, audio_s_per_s=FALLING * noise, host_cpu=[99.0] * 20)
    found = throughput_falling(records)
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (21, 400)
    assert found.badness > 0.8 and "seconds of audio per second" in found.evidence[0]


def test_a_busy_machine_is_not_the_run() -> None:
    records = made(20, None, {"device": "cpu"}, audio_s_per_s=FALLING, host_cpu=BUSY)
    assert throughput_falling(records) is None


def test_a_card_is_its_run_s_own_and_a_log_without_the_device_is_a_note() -> None:
    card = throughput_falling(made(20, None, {"device": "cuda"}, audio_s_per_s=FALLING, host_cpu=BUSY))
    assert card is not None and card.severity == "warning"
    log = throughput_falling(made(20, audio_s_per_s=FALLING))
    assert log is not None and log.severity == "note"


def test_what_rises_with_it_is_evidence() -> None:
    found = throughput_falling(
        made(20, None, {"device": "cuda"}, audio_s_per_s=FALLING, host_gb=2 + 0.2 * STEPS, data_wait=[3.0] * 20)
    )
    assert found is not None and any(line.startswith("host_gb rose from 2.5 to 5.6 GB") for line in found.evidence)
    assert not any("data_wait" in line for line in found.evidence)


def test_a_sixth_that_is_as_fast_as_the_one_before_is_borne() -> None:
    """Seconds of a core for a second of audio, on a machine with other programs (planted_runs, seed 7)."""
    cost = np.asarray([0.0066, 0.0072, 0.0093, 0.0107, 0.0114, 0.0114, 0.0144, 0.0147, 0.0152])
    found = throughput_falling(made(20, None, {"device": "cuda"}, audio_s_per_s=np.append(160, 1 / cost)))
    assert found is not None and found.severity == "warning"


@pytest.mark.parametrize(
    "speed",
    [
        80 * np.exp(np.random.default_rng(2).normal(0, 0.3, 20)),  # noise
        np.where(STEPS < 10, 80.0, 40.0),  # another program starts
        np.where((STEPS > 5) & (STEPS < 12), 30.0, 80.0),  # and ends
        80 - 0.5 * STEPS,  # 12 %
        np.where(STEPS < 10, 80.0, 45.0) * (1 - 0.008 * STEPS),  # mostly one jump
        80 / (1 + 0.1 * np.minimum(STEPS, 10)),  # does not go on
        FALLING * np.where(STEPS % 3 == 0, 0.4, 1.0),  # much noise
        [80.0] * 20,
        [0.0] * 20,
        FALLING[:8],  # too early
    ],
)
def test_healthy_speeds(speed: object) -> None:
    assert throughput_falling(made(20, None, {"device": "cuda"}, audio_s_per_s=speed)) is None


def test_validations_that_take_longer_are_not_training() -> None:
    share = 100 * (1 - FALLING / 80)
    records = made(20, None, {"device": "cuda"}, audio_s_per_s=FALLING, time_validate=share)
    assert throughput_falling(records) is None


def test_over_all_starts_and_since_the_last() -> None:
    fast_again = np.concatenate([FALLING[:10], FALLING])
    found = throughput_falling(made(20, None, {"device": "cuda"}, starts=[200], audio_s_per_s=fast_again))
    assert found is not None and found.begin == 221
    slow_still = throughput_falling(made(20, None, {"device": "cuda"}, starts=[320], audio_s_per_s=FALLING))
    assert slow_still is not None and slow_still.begin == 21
