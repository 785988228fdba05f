"""Graphs and operators on the host."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.graphs import cpu_fallbacks, recompiling
from tests.unit.doctor.causes.made_rows import made

STEPS = np.arange(40)


def test_graphs_that_rise_to_the_end() -> None:
    found = recompiling(made(20, {"task": {"num_batch_buckets": 0}}, graphs=30 + 3.0 * STEPS))
    assert found is not None and found.severity == "warning" and "0.15 per update" in found.evidence[0]
    assert "num_batch_buckets=7" in found.change and found.end == 800
    assert recompiling(made(20, graphs=30 + 3.0 * STEPS)) is not None, "without a config"


def test_graphs_of_shapes_that_come_late() -> None:
    assert recompiling(made(20, graphs=30.0 + np.minimum(STEPS, 12) * 5)) is None
    late = np.where(STEPS > 30, 62.0, 60.0)
    assert recompiling(made(20, graphs=late)) is None
    assert recompiling(made(20, starts=[400], graphs=np.where(STEPS < 20, 60, 10 + STEPS))) is not None
    assert recompiling(made(20, starts=[400], graphs=np.where(STEPS < 20, 60, 30))) is None
    assert recompiling(made(20, loss=[6.0] * 40)) is None


def test_operators_on_the_host_in_every_update() -> None:
    found = cpu_fallbacks(made(20, cpu_fallbacks=40.0 * STEPS))
    assert found is not None and found.severity == "warning" and "2.00 per update" in found.evidence[0]
    note = cpu_fallbacks(made(20, cpu_fallbacks=1.0 * STEPS))
    assert note is not None and note.severity == "note", "one per log line"
    assert cpu_fallbacks(made(20, cpu_fallbacks=[7.0] * 40)) is None
