"""`common.report`: the page of a running training, built by a process of its own."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from fairseq.dataclass.configs import CommonConfig
from fairseq.doctor.report import sink
from fairseq.doctor.report.sink import Reporter, open_report
from fairseq.logging import sinks
from fairseq.logging.sinks import EPOCH, INTERVAL, Start
from fairseq.pages import assets

# as fast as a process can be: the real command imports torch. It says how it was called, and fails if told to
BUILDER = """
import sys, os, time
from pathlib import Path
time.sleep(float(sys.argv[2]))
if sys.argv[3] != "0":
    sys.exit("a line\\nfailed as told")
with Path(sys.argv[1]).open("a") as file:
    file.write(" ".join([str(os.getpriority(os.PRIO_PROCESS, 0)), *sys.argv[4:]]) + "\\n")
"""


def reporter(folder: Path, seconds: float = 0.0, fails: bool = False) -> tuple[Reporter, Path]:
    built = folder / "built"
    command = [sys.executable, "-S", "-c", BUILDER, str(built), str(seconds), str(int(fails))]
    return Reporter(folder, command), built


def finish(made: Reporter) -> None:
    end = time.monotonic() + 20
    while not made._is_free() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.process
def test_a_page_at_each_validation_and_at_the_end(tmp_path: Path) -> None:
    made, built = reporter(tmp_path)
    for update in (10, 20):
        made.write(INTERVAL, update, 1, {})
        made.write(EPOCH, update, 1, {})
        finish(made)
        assert len(built.read_text().splitlines() if built.exists() else []) == update // 10 - 1
        made.write("valid", update, 1, {})
        finish(made)
    made.close()
    assert built.read_text().splitlines() == ["19", "19"], "nothing is new since the last validation"
    made.write(INTERVAL, 30, 1, {})
    made.close()
    assert built.read_text().splitlines() == ["19", "19", "19 --ended"]


@pytest.mark.process
def test_training_does_not_wait_for_a_page(tmp_path: Path) -> None:
    made, built = reporter(tmp_path, seconds=0.3)
    start = time.perf_counter()
    for update in range(5):  # several sets, and validations that follow at once: one page at a time
        made.write("valid", update, 1, {})
    assert time.perf_counter() - start < 0.2 and not built.exists()
    made.close()
    assert built.read_text().splitlines() == ["19", "19 --ended"]


@pytest.mark.process
def test_a_page_that_fails_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = reporter(tmp_path, fails=True)
    for update in range(3):
        made.write("valid", update, 1, {})
        finish(made)
    made.write("valid", 4, 1, {})
    made.close()
    path = tmp_path / "report.html"
    assert caplog.messages == [f"cannot build {path}: failed as told; training continues without it"]


@pytest.mark.process
def test_the_end_of_a_run_does_not_wait_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "SECONDS", 0.1)
    made, built = reporter(tmp_path, seconds=60)
    start = time.perf_counter()
    made.write("valid", 1, 1, {})
    made.close()
    assert time.perf_counter() - start < 10 and not built.exists()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] and "it took more than 0 s" in caplog.text


def test_a_process_that_cannot_be_started_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    several = sinks.Sinks({"common.report": Reporter(tmp_path, [str(tmp_path / "none")])})
    for update in range(2):
        several.write("valid", update, 1, {})
    several.close()
    assert caplog.messages == ["cannot write common.report: No such file or directory; training continues without it"]


def test_the_config_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_report(Start(CommonConfig(), tmp_path, 0)) is None
    assert isinstance(open_report(Start(CommonConfig(report=True), tmp_path, 0)), Reporter)
    monkeypatch.setattr(assets, "_CARRIER", "not_there_at_all")
    assets._uplot.cache_clear()
    assert sinks.problems(CommonConfig()) == []
    (problem,) = sinks.problems(CommonConfig(report=True))
    assert problem.startswith("common.report=true: plots in pages need the package not_there_at_all")
    assert "pip install 'youplot==1.0.0'" in problem and problem.endswith("Or set common.report=false.")
    assets._uplot.cache_clear()


@pytest.mark.process
def test_the_real_command_builds_the_page(tmp_path: Path) -> None:
    pytest.importorskip("youplot", reason="extra report")
    row = '{"split": "train_inner", "num_updates": 1, "epoch": 1, "loss": 7}\n'
    (tmp_path / "metrics.jsonl").write_text(row)
    made = open_report(Start(CommonConfig(report=True), tmp_path, 0))
    assert made is not None
    made.write(INTERVAL, 1, 1, {})
    made.close()
    assert "The run has ended; its last records are of update 1." in (tmp_path / "report.html").read_text()
