"""Preflight is never silent for long."""

from __future__ import annotations

import time

import pytest

from fairseq.preflight import heartbeat
from fairseq.preflight.heartbeat import Heartbeat


def test_it_says_what_it_does_while_that_lasts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert heartbeat.EVERY < 10
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    with Heartbeat("fairseq-preflight", "reading") as tell:
        time.sleep(0.2)
        tell("measuring")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0] == "fairseq-preflight: reading (0 s so far)"
        and lines[-1] == "fairseq-preflight: measuring (0 s so far)"
    )
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_quick_checks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Heartbeat("fairseq-preflight", "reading"):
        pass
    assert capsys.readouterr().err == ""
