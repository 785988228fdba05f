"""The doctor of a run that trains: what it says, how often, and how long it looks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq.doctor import live
from fairseq.doctor.findings import Finding
from fairseq.doctor.live import LiveDoctor
from fairseq.doctor.records import Records


@pytest.fixture()
def causes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> dict[str, Callable]:
    """The causes that are looked for: those of the test alone."""
    caplog.set_level(logging.INFO)
    own: dict[str, Callable] = {}
    monkeypatch.setattr(live, "CAUSES", own)
    return own


def high(name: str = "high", limit: float = 1.0, **fields: object) -> Callable[[Records], Finding | None]:
    """A cause that is there while the last value is above the limit."""

    def look(records: Records) -> Finding | None:
        rows = records.training
        value = rows.values("value")[-1]
        if value <= limit:
            return None
        last = int(rows.updates[-1])
        begin = int(fields.get("begin", last))  # type: ignore[call-overload]
        rest = {"severity": "warning", **{key: item for key, item in fields.items() if key != "begin"}}
        return Finding(
            name, title="It is high.", evidence=[f"{value:g}"], change="", begin=begin, end=last, badness=value, **rest
        )  # type: ignore[arg-type]

    return look


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def updates(folder: Path) -> list[int]:
    return [json.loads(line)["num_updates"] for line in (folder / "findings.jsonl").read_text().splitlines()]


def feed(doctor: LiveDoctor, values: dict[int, float]) -> None:
    for update, value in values.items():
        doctor.write("train_inner", update, 1, {"value": value})


def test_a_finding_is_said_first_and_when_it_is_half_as_bad_again(tmp_path: Path, causes, caplog):
    causes["high"] = high(begin=200)
    told = []
    doctor = LiveDoctor({}, tmp_path, say=lambda update, finding: told.append((update, finding["badness"])))
    feed(doctor, {100: 0.5, 200: 2.0, 300: 2.0, 400: 2.9, 500: 3.0, 600: 3.1, 1500: 4.4, 1600: 4.5})
    assert updates(tmp_path) == [200, 500, 1600] and told == [(200, 2.0), (500, 3.0), (1600, 4.5)]
    assert lines(caplog)[0] == "WARNING warning: high: It is high. 2. (since update 200; docs/doctor.md)"
    assert len(lines(caplog)) == 3
    row = json.loads((tmp_path / "findings.jsonl").read_text().splitlines()[0])
    assert row == {"num_updates": 200, **Finding("high", "warning", "It is high.", ["2"], "", 200, 200, 2.0)._asdict()}


def test_one_that_comes_and_goes_is_said_once_in_a_thousand_updates(tmp_path: Path, causes):
    causes["high"] = high()
    feed(LiveDoctor({}, tmp_path), {100: 2.0, 200: 0.0, 300: 2.0, 400: 0.0, 1050: 2.0, 1060: 0.0, 1150: 2.0, 1200: 2.0})
    assert updates(tmp_path) == [100, 1150]


def test_one_that_becomes_more_severe_is_said_at_once(tmp_path: Path, causes, caplog):
    causes["high"] = high(severity="note")
    doctor = LiveDoctor({}, tmp_path)
    feed(doctor, {100: 2.0})
    causes["high"] = high(severity="error")
    feed(doctor, {200: 2.0, 300: 2.0})
    assert updates(tmp_path) == [100, 200]
    assert [line.split()[:3] for line in lines(caplog)] == [["INFO", "note:", "high:"], ["WARNING", "error:", "high:"]]


def test_a_resumed_run_does_not_repeat_itself_and_knows_its_earlier_rows(tmp_path: Path, causes):
    rows = [{"split": "train_inner", "num_updates": update, "epoch": 1, "value": 2.0} for update in (100, 200, 300)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    causes["high"] = high(begin=100)
    feed(LiveDoctor({}, tmp_path), {100: 2.0, 200: 2.5, 300: 3.0})
    assert updates(tmp_path) == [100, 300]
    seen: list[list[int]] = []
    causes["count"] = lambda records: seen.append(records.training.updates.tolist())
    feed(LiveDoctor({}, tmp_path, update=200), {300: 2.9})  # from the checkpoint of update 200: 300 is done again
    assert updates(tmp_path) == [100] and seen == [[100, 200, 300]]
    feed(LiveDoctor({}, tmp_path, update=200), {300: 3.0})
    assert updates(tmp_path) == [100, 300]


def test_it_sees_what_the_run_writes_beside_its_rows(tmp_path: Path, causes):
    seen = []
    causes["codes"] = lambda records: seen.append((len(records.codes), records.setting("a.b"), records.data))
    doctor = LiveDoctor({"a": {"b": 1}}, tmp_path)
    (tmp_path / "run.jsonl").write_text(json.dumps({"num_updates": 0, "data": {"train": {"hours": 2}}}) + "\n")
    line = json.dumps({"num_updates": 100, "perplexity": [3.0]})
    (tmp_path / "codes.jsonl").write_text(f"{line}\n{line[:9]}")
    feed(doctor, {100: 0.0})
    (tmp_path / "codes.jsonl").write_text(f"{line}\n{line}\n")
    feed(doctor, {200: 0.0})
    assert seen == [(1, 1, {"train": {"hours": 2}}), (2, 1, {"train": {"hours": 2}})]


def test_a_collapse_stops_the_run_if_it_may_and_an_early_warning_keeps_a_checkpoint(tmp_path: Path, causes, caplog):
    causes["gone"] = high("gone", 2.0, has_collapsed=True, severity="error")
    causes["gradient-drift"] = high("gradient-drift", begin=100)
    stopped, kept = [], []
    doctor = LiveDoctor({}, tmp_path, stop=lambda: stopped.append(1), keep=lambda finding: kept.append(finding.begin))
    feed(doctor, {100: 0.0, 200: 2.0})
    assert (stopped, kept) == ([], [100])
    feed(doctor, {300: 2.5, 400: 2.5})
    assert (stopped, kept) == ([1], [100])
    assert "ERROR stopping: the run has collapsed (gone), and common.doctor is stop" in lines(caplog)
    feed(LiveDoctor({}, tmp_path / "warns"), {300: 2.5})
    assert "stopping" not in lines(caplog)[-1]


def test_a_cause_that_raises_is_reported_once(tmp_path: Path, causes, caplog):
    causes["broken"] = lambda records: 1 // 0
    causes["high"] = high()
    feed(LiveDoctor({}, tmp_path), {100: 0.5, 200: 2.0, 300: 2.0})
    assert lines(caplog)[0].startswith("ERROR the doctor cannot look for broken: ZeroDivisionError")
    assert len(lines(caplog)) == 2 and updates(tmp_path) == [200]


def test_looking_takes_a_small_share_of_a_long_run(tmp_path: Path, causes):
    now, work, looks = [0.0], [0.0], []

    def slow(records: Records) -> None:
        work[0] += 0.5
        looks.append(int(records.training.updates[-1]))

    causes["slow"] = slow
    doctor = LiveDoctor({}, tmp_path, clock=lambda: now[0], work=lambda: work[0])
    for update in range(1, 10_001):  # 10,000 seconds
        now[0] += 1.0
        doctor.write("train_inner", update, 1, {"value": 0.0})
    assert looks[:5] == [1, 2, 3, 4, 5], "at first, with every row"
    assert doctor.spent <= 10_000 * live.SHARE + live.AT_ONCE + 0.5 and looks[-1] > 9000
    doctor.close()
    assert looks[-1] == 10_000


def test_findings_that_cannot_be_written_end_nothing(tmp_path: Path, causes, caplog):
    causes["high"] = high()
    (tmp_path / "findings.jsonl").mkdir()
    feed(LiveDoctor({}, tmp_path), {100: 2.0, 2000: 4.0})
    assert sum("cannot write" in line for line in lines(caplog)) == 1
