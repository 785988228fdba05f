"""The loss scale of fp16, and updates that are not finite."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.doctor.causes.scale import loss_scale_sliding, non_finite
from tests.unit.doctor.causes.made_rows import made


def test_a_scale_that_halves_again_and_again_is_named_with_its_end() -> None:
    scales = [128.0 / 2**i for i in range(16)]
    found = loss_scale_sliding(made(10, {"common": {"min_loss_scale": 1e-4}}, loss_scale=scales[:14]))
    assert found is None, "in the first 100 updates, it may search"
    scales = [128.0] * 12 + [128.0 / 2**i for i in range(1, 9)]
    found = loss_scale_sliding(made(10, {"common": {"min_loss_scale": 1e-4}}, loss_scale=scales))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (120, 200)
    assert "after 13 more halvings" in found.evidence[1] and "about update 323" in found.evidence[2]
    worse = loss_scale_sliding(made(10, loss_scale=[*scales, 2.0**-8]))
    assert worse is not None and worse.severity == "error" and worse.badness > found.badness


@pytest.mark.parametrize(
    "scales",
    [
        [2.0**15, 2.0**11, 2.0**7, 2.0**3, *[1.0] * 30],  # the first search
        [128.0, 64.0] * 30,  # doubles and halves
        [2.0 ** (7 - i // 20) for i in range(100)],  # gradients grow as the model begins to learn
        [*[128.0] * 15, *[128.0 / 2**i for i in range(8)], *[2.0] * 10, 4.0, 8.0, 16.0],  # recovers
        [],
        [None] * 30,
    ],
)
def test_healthy_scales(scales: list[float]) -> None:
    assert loss_scale_sliding(made(10, loss_scale=scales)) is None


def test_a_scale_near_its_limit_is_an_error_even_early() -> None:
    found = loss_scale_sliding(made(10, loss_scale=[1.0, 0.1, 0.001]))
    assert found is not None and found.severity == "error"
    high_limit = {"common": {"min_loss_scale": 1.0}}
    assert loss_scale_sliding(made(10, high_limit, loss_scale=[16.0, 32.0, 16.0, 8.0, 16.0])) is None


def test_a_streak_of_skipped_updates() -> None:
    found = non_finite(made(20, skipped=[None] * 6 + [7.0] + [7.0] * 4))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (121, 140)
    assert "7 updates were skipped" in found.evidence[0] and not found.has_collapsed


def test_single_skipped_updates_are_a_note_and_fp16_searching_is_none() -> None:
    count = np.minimum(np.arange(60) // 20, 2).astype(float)
    found = non_finite(made(20, skipped=count))
    assert found is not None and found.severity == "note"
    assert non_finite(made(20, skipped=count + 8, loss_scale=[64.0] * 60)) is None
    assert non_finite(made(20, skipped=np.arange(60) * 2.0, loss_scale=[64.0] * 60)) is None, "one in ten"
    often = non_finite(made(20, skipped=np.arange(60) * 6.0, loss_scale=[64.0] * 60))
    assert often is not None and often.severity == "warning"


def test_a_run_that_skips_everything_has_collapsed() -> None:
    found = non_finite(made(20, skipped=[None] * 5 + [20.0, 40.0, 60.0, 80.0]))
    assert found is not None and found.severity == "error" and found.has_collapsed and found.begin == 101


def test_skipped_counts_from_each_start() -> None:
    found = non_finite(made(20, starts=[100], skipped=[None, 3.0, 3.0, 3.0, 3.0, None, 3.0, 3.0]))
    assert found is not None and found.evidence[0].startswith("6 updates")


def test_rows_that_are_not_finite() -> None:
    found = non_finite(made(20, loss=[6.0, 5.0, "nan", "nan", "nan"], accuracy=["nan"] * 5))
    assert found is not None and found.has_collapsed and (found.begin, found.end) == (60, 100)
    once = non_finite(made(20, loss=[6.0, 5.0, 5.0, 5.0], gnorm=[1.0, "inf", None, 1.0]))
    assert once is not None and once.severity == "warning" and once.metric == "gnorm" and once.badness == 1
    assert non_finite(made(20, loss=[6.0, None, 5.0], accuracy=["nan"] * 3)) is None
