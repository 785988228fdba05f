"""Meters: means, sums, rates, and states that a checkpoint can hold."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from fairseq.logging.meters import (
    AverageMeter,
    ConcatTensorMeter,
    MetersDict,
    StopwatchMeter,
    SumMeter,
    TimeMeter,
    safe_round,
)


def test_average_is_weighted_and_weight_zero_only_shows():
    meter = AverageMeter(round=2)
    meter.update(1.0, 3)
    meter.update(5.0, 1)
    assert meter.avg == 2.0
    meter.update(9.0, 0)
    assert (meter.avg, meter.val) == (2.0, 9.0)
    meter.update(None)
    assert meter.val == 9.0
    only_latest = AverageMeter()
    only_latest.update(7, 0)
    assert only_latest.smoothed_value == 7


def test_rounding_of_tensors_and_numpy():
    assert safe_round(torch.tensor(1.23456), 2) == 1.23
    assert safe_round(np.float32(1.23456), 2) == pytest.approx(1.23)
    assert safe_round("text", 2) == "text"


def test_sum_and_concat():
    total = SumMeter()
    total.update(torch.tensor(2.0))
    total.update(torch.tensor(3.0))
    assert total.smoothed_value == 5.0
    vector = SumMeter()
    vector.update(torch.tensor([2**53, 1]))
    loaded = SumMeter()
    loaded.load_state_dict(vector.state_dict())
    loaded.update(torch.tensor([1, 1]))
    assert vector.state_dict()["sum"] == [2**53, 1] and loaded.sum.tolist() == [2**53 + 1, 2]  # exact
    joined = ConcatTensorMeter()
    joined.update(torch.tensor([1, 2]))
    joined.update(torch.tensor([3]))
    assert joined.tensor.tolist() == [1, 2, 3]


def test_time_meter_carries_earlier_seconds(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    meter = TimeMeter()
    meter.update(10)
    clock[0] += 5
    assert meter.avg == 2.0
    resumed = TimeMeter()
    resumed.load_state_dict(meter.state_dict())
    clock[0] += 5
    assert resumed.elapsed_time == 10.0 and resumed.avg == 1.0


def test_stopwatch(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    watch = StopwatchMeter()
    watch.stop()  # never started: counts nothing
    watch.start()
    clock[0] = 2.0
    watch.stop(1)
    watch.start()
    clock[0] = 6.0
    watch.stop(1)
    assert (watch.sum, watch.avg) == (6.0, 3.0)


def test_dict_is_ordered_by_priority_and_state_is_plain():
    meters = MetersDict()
    meters.add_meter("late", AverageMeter(), 30)
    meters.add_meter("early", AverageMeter(), 5)
    meters.add_meter("_hidden", SumMeter(), 1)
    meters.add_meter("double", MetersDict._DerivedMeter(lambda m: 2 * m["early"].avg), 20)
    meters["early"].update(torch.tensor(2.0), torch.tensor(4))
    meters["late"].update(np.float64(1.0))
    assert list(meters.get_smoothed_values()) == ["early", "double", "late"]
    assert meters.get_smoothed_value("double") == 4.0

    buffer = io.BytesIO()
    torch.save(meters.state_dict(), buffer)
    buffer.seek(0)
    loaded = MetersDict()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))  # numpy scalars inside would be refused here
    assert list(loaded) == ["_hidden", "early", "late"]
    assert loaded["early"].avg == 2.0


def test_unknown_meter_of_another_program_is_left_out(caplog):
    loaded = MetersDict()
    loaded.load_state_dict([(1, "kept", "SumMeter", {"sum": 3}), (2, "strange", "HistogramMeter", {"bins": []})])
    assert list(loaded) == ["kept"]
    assert "HistogramMeter" in caplog.text
