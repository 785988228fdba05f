"""Most updates are clipped."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.clipping import clipping
from tests.unit.doctor.causes.made_rows import made

CONFIG = {"optimization": {"clip_norm": 0.1}}


def test_a_limit_below_the_usual_norm_is_named_with_a_better_one() -> None:
    found = clipping(made(20, CONFIG, clip=[100.0] * 8, gnorm=[1.2] * 8))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (21, 160)
    assert "12.0 times optimization.clip_norm=0.1" in found.evidence[1]
    assert "optimization.clip_norm=4," in found.change and round(found.badness) == 12


def test_a_limit_near_the_usual_norm_is_only_a_note() -> None:
    found = clipping(made(20, {"optimization": {"clip_norm": 1.0}}, clip=[70.0] * 8, gnorm=[1.2] * 8))
    assert found is not None and found.severity == "note"


def test_spikes_and_the_start_may_be_clipped() -> None:
    rare = np.where(np.arange(40) % 4 == 0, 100.0, 5.0)
    assert clipping(made(20, CONFIG, clip=rare, gnorm=[1.0] * 40)) is None
    assert clipping(made(20, CONFIG, clip=[100.0] * 3 + [2.0] * 10, gnorm=[1.0] * 13)) is None
    assert clipping(made(20, gnorm=[15.0] * 40)) is None, "not clipped at all"


def test_a_log_without_a_config_is_enough() -> None:
    found = clipping(made(20, clip=[100.0] * 8))
    assert found is not None and len(found.evidence) == 1 and "a larger optimization.clip_norm" in found.change
