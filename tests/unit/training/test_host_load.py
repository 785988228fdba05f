"""When a run says that other programs take its CPU."""

from __future__ import annotations

import pytest
import torch

from fairseq.training import host_load


@pytest.mark.parametrize(
    ("load", "cores", "threads", "processes", "workers", "is_odd"),
    [
        (4.5, 2, 2, 1, 1, True),
        (3.2, 2, 2, 1, 1, False),  # this run alone: two threads and a worker
        (4.5, 2, 1, 1, 1, False),  # a single thread waits for nobody
        (4.5, 8, 2, 1, 1, False),  # there are cores enough
        (12.0, 8, 4, 2, 1, True),
    ],
)
def test_advice(load: float, cores: int, threads: int, processes: int, workers: int, is_odd: bool) -> None:
    text = host_load.advice(load, cores, threads, processes, workers)
    assert (text is not None) == is_odd and ("OMP_WAIT_POLICY=passive" in (text or "")) == is_odd


@pytest.fixture()
def busy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(host_load.os, "getloadavg", lambda: (99.0, 1.0, 1.0))
    monkeypatch.setattr(host_load.os, "cpu_count", lambda: 2)
    return monkeypatch


def test_the_hint_comes_once_and_not_at_the_start(busy: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hint = host_load.LoadHint("cpu", processes=1, workers=1)
    hint.look()
    assert caplog.messages == []
    busy.setattr(host_load, "SETTLED", 0.0)
    hint.look()
    hint.look()
    assert len(caplog.messages) == 1


def test_no_hint_where_it_would_not_help(busy: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    busy.setattr(host_load, "SETTLED", 0.0)
    host_load.LoadHint("cuda", 1, 1).look()
    busy.setenv("OMP_WAIT_POLICY", "passive")
    host_load.LoadHint("cpu", 1, 1).look()
    assert caplog.messages == []
