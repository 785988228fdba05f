"""Scopes of metrics: who sees what, also after an exception and over a resume."""

from __future__ import annotations

import pytest

from fairseq.logging import metrics
from fairseq.logging.meters import SumMeter


@pytest.fixture(autouse=True)
def fresh():
    metrics.reset()
    yield
    metrics.reset()


def test_nested_scopes_share_and_new_root_hides():
    with metrics.aggregate("train"):
        with metrics.aggregate("train_inner"):
            metrics.log_scalar("loss", 2.0, weight=1, round=3)
        metrics.reset_meters("train_inner")
        with metrics.aggregate("train_inner"):
            metrics.log_scalar("loss", 4.0, weight=3, round=3)
        with metrics.aggregate("valid", new_root=True):
            metrics.log_scalar("loss", 100.0)
    assert metrics.get_smoothed_values("train_inner")["loss"] == 4.0
    assert metrics.get_smoothed_value("train", "loss") == 3.5
    assert metrics.get_smoothed_value("default", "loss") == 3.5
    assert metrics.get_smoothed_value("valid", "loss") == 100.0
    assert metrics.get_active_aggregators() == [metrics.get_meters("default")]


def test_scope_opened_twice_counts_once_and_closes_last():
    with metrics.aggregate("train"):
        with metrics.aggregate("train"):
            metrics.log_scalar_sum("n", 1)
        metrics.log_scalar_sum("n", 1)
    metrics.log_scalar_sum("n", 1)
    assert metrics.get_smoothed_value("train", "n") == 2


@pytest.mark.parametrize("new_root", [False, True])
def test_exception_closes_the_scope(new_root):
    with pytest.raises(MemoryError):
        with metrics.aggregate("train", new_root=new_root):
            raise MemoryError
    assert metrics.get_active_aggregators() == [metrics.get_meters("default")]


def test_unnamed_scope_and_custom_and_derived():
    with metrics.aggregate() as scope:
        metrics.log_custom(SumMeter, "total", 5)
        metrics.log_derived("twice", lambda meters: 2 * meters["total"].sum)
        assert scope.get_smoothed_values() == {"total": 5, "twice": 10}
    with pytest.raises(ValueError, match="default"):
        with metrics.aggregate("default"):
            pass


def test_speed_counts_from_the_second_call(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with metrics.aggregate("train"):
        metrics.log_speed("ups", 1)
        clock[0] = 4.0
        metrics.log_speed("ups", 1)
        metrics.log_start_time("wall")
        clock[0] = 5.0
        metrics.log_stop_time("wall")
    assert metrics.get_meter("train", "ups").avg == pytest.approx(1 / 5)
    assert metrics.get_smoothed_value("train", "wall") == 1.0
    assert metrics.get_meter("nowhere", "ups") is None and metrics.get_meters("nowhere") is None


def test_state_goes_on():
    with metrics.aggregate("train"):
        metrics.log_scalar("loss", 1.0)
        state = metrics.state_dict()
        metrics.reset_meter("train", "loss")
        metrics.load_state_dict(state)
        metrics.log_scalar("loss", 3.0)
    assert metrics.get_smoothed_value("train", "loss") == 2.0
    assert metrics.get_smoothed_value("default", "loss") == 2.0
