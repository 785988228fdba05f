"""Places that the log goes to, and a run that goes on where one of them cannot be written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fairseq.logging import destinations
from fairseq.logging.trackers import tensorboard

NO_SPACE = "No space left on device"


@pytest.fixture()
def source() -> Any:
    """A logger of the test's own."""
    made = logging.Logger("test", logging.INFO)
    yield made
    for handler in made.handlers:
        handler.close()


def test_a_log_file_is_written_once_a_line(source: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.log"
    destinations.add_file(source, path)
    destinations.add_file(source, path)
    below = source.getChild("part") if source.manager is None else logging.Logger("part")
    below.parent = source
    destinations.add_file(below, path)  # a logger above it writes there already
    below.info("one")
    source.info("t\udc80wo")
    assert path.read_text() == "one\nt\\udc80wo\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_file_on_a_full_disk_is_reported_once(
    source: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # without what other tests' commands left there
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    file = destinations.LogFile("/dev/full")
    with pytest.raises(OSError, match=NO_SPACE):
        file.begin()
    source.addHandler(file)
    for _ in range(3):
        source.info("a line")
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write common.log_file=/dev/full: {NO_SPACE}; the run continues without it"
    ]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("how", ["full", "no reader"])
def test_standard_output_that_cannot_be_written_does_not_end_the_run(how: str) -> None:
    text = (
        "import logging\nfrom fairseq.logging.destinations import StandardOutput\n"
        "logging.basicConfig(level='INFO', handlers=[StandardOutput()])\nfor i in range(3): logging.info('x' * 9000)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", text], stdout=full if how == "full" else writer, stderr=subprocess.PIPE, text=True
        )
    os.close(writer)
    assert (
        done.returncode == 0
        and done.stderr.count("\n") == 1
        and "cannot write the log to standard output" in done.stderr
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert destinations.problem_of_folder(tmp_path / "file") == "it is not a folder"
    assert destinations.problem_of_folder(tmp_path / "file" / "x") == "Not a directory"
    assert destinations.problem_of_folder(tmp_path / "new" / "x") is None and not (tmp_path / "new").exists()


# -- TensorBoard -------------------------------------------------------------------------------------------------------


class Writer:
    """Stands for tensorboard's; its disk fills up at the third scalar."""

    made: list[dict[str, Any]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.made.append({"folder": Path(folder).name, "purge_step": purge_step})
        self.room = 2

    def add_text(self, key: str, text: str, step: int = 0) -> None:
        pass

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(28, NO_SPACE)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        raise OSError(28, NO_SPACE)


@pytest.fixture()
def writers(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    yield Writer.made
    tensorboard.close()


def test_tensorboard_on_a_full_disk_is_reported_once(
    writers: list[dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = tensorboard.board(str(tmp_path), start_update=0)
    for step in range(1, 6):
        board.scalars("train", {"loss": 1.0}, step)
    board.close()
    assert caplog.text.count("cannot write common.tensorboard_logdir") == 1 and NO_SPACE in caplog.text


def test_steps_after_a_resume_replace_those_of_the_life_before(writers: list[dict], tmp_path: Path) -> None:
    """Sets that are first logged later in the run count from the same update."""
    tensorboard.board(str(tmp_path), start_update=100).scalars("train_inner", {"loss": 1.0}, 110)
    tensorboard.board(str(tmp_path), start_update=150).scalars("valid", {"loss": 1.0}, 150)
    assert writers == [{"folder": "train_inner", "purge_step": 101}, {"folder": "valid", "purge_step": 101}]


def test_events_of_a_resumed_run_have_each_step_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, last in ((0, 8), (4, 10)):  # killed at update 8; its last checkpoint was of update 4
        board = tensorboard.board(str(tmp_path), start)
        for step in range(start + 1, last + 1):
            board.scalars("train", {"loss": float(start)}, step)
        tensorboard.close()
    read = events.EventAccumulator(str(tmp_path / "train")).Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [
        (i, 0.0 if i <= 4 else 4.0) for i in range(1, 11)
    ]


def test_other_threads_keep_their_tracebacks(
    writers: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    tensorboard.board(str(tmp_path), 0)

    class Theirs(threading.Thread):
        __module__ = "tensorboard.summary.writer"

    for kind in (threading.Thread, Theirs):
        thread = kind(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [type(arguments.thread) for arguments in shown] == [threading.Thread]
