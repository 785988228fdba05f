"""Sinks: destinations of a run's metrics, what each row looks like there, and a run that outlives them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from fairseq.dataclass.configs import CommonConfig
from fairseq.logging import sinks
from fairseq.logging.metrics_file import Json, read_rows
from fairseq.logging.sinks import EPOCH, INTERVAL, Console, Sink, Start, open_sinks
from fairseq.logging.trackers.tensorboard import Board


@pytest.fixture()
def console(caplog: pytest.LogCaptureFixture) -> Console:
    caplog.set_level(logging.INFO)
    return Console(CommonConfig(log_format="simple", log_interval=2))  # type: ignore[arg-type]


class Rows:
    """A sink that fails as its disk fills up."""

    def __init__(self, room: int) -> None:
        self.room, self.rows, self.closed = room, [], 0

    def write(self, split: str, update: int, epoch: int, stats: sinks.Stats) -> None:
        if len(self.rows) == self.room:
            raise OSError(28, "No space left on device")
        self.rows.append((split, update, epoch, dict(stats)))

    def close(self) -> None:
        self.closed += 1


def test_lines_go_to_what_is_under_way(console: Console, caplog: pytest.LogCaptureFixture) -> None:
    for update, _ in enumerate(_training(console), start=1):
        console.write(INTERVAL, update, 1, {"loss": 2.5})
        if update == 2:
            with console.following([1], 1, update, prefix="valid on 'dev' subset") as batches:
                assert list(batches) == [1]
                console.write("dev", update, 1, {"loss": 3.0})
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (INTERVAL, "epoch 001:      2 / 2 loss=2.5"),
        ("dev", "epoch 001 | valid on 'dev' subset | loss 3"),
        (EPOCH, "epoch 001 | loss 2"),
    ]


def test_the_console_leaves_out_what_only_files_keep(console: Console, caplog: pytest.LogCaptureFixture) -> None:
    with console.following(range(1), 1) as updates:
        for _ in updates:
            console.write(EPOCH, 1, 1, {"loss": 2.0, "time_forward": 31.5, "host_gb": 1.5, "data_wait": 0.5})
    assert caplog.messages == ["epoch 001 | loss 2 | data_wait 0.5"]


def _training(console: Console):
    with console.following(range(2), 1) as updates:
        yield from updates
        console.write(EPOCH, 2, 1, {"loss": 2.0})


def test_a_process_that_is_not_the_first_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    quiet = Console(CommonConfig(log_format="simple", log_interval=1), is_shown=False)  # type: ignore[arg-type]
    with quiet.following([0], 1) as updates:
        assert list(updates) == [0]
        open_sinks(quiet, None).write(INTERVAL, 1, 1, {"loss": 1.0})
    assert caplog.messages == []


def test_a_run_writes_its_rows_to_all_that_the_config_asks_for(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(Board, "scalars", lambda board, *row: written.append((board.start_update, *row)))
    common = CommonConfig(tensorboard_logdir=str(tmp_path / "board"))
    for again in ((), ("valid",)):  # the second process resumes at update 2 and repeats the validation there
        opened = open_sinks(console, Start(common, tmp_path, 2, again=again))
        with console.following([0], 1):
            for split, update in (("valid", 2), (INTERVAL, 4)):
                opened.write(split, update, 1, {"loss": 0.5, "text": "x"})
        opened.close()
    rows = [
        (row["split"], row["num_updates"], row["epoch"], row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl")
    ]
    assert rows == [("valid", 2, 1, 0.5), (INTERVAL, 4, 1, 0.5)]
    # steps from 2 on are hidden, and those of metrics.jsonl are written again
    assert written == 2 * [(1, "valid", {"loss": 0.5}, 2), (1, INTERVAL, {"loss": 0.5}, 4)]


def test_a_destination_that_cannot_be_written_is_a_problem_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert sinks.problems(CommonConfig(tensorboard_logdir=str(tmp_path / "new"))) == []
    folder = str(tmp_path / "file")
    assert sinks.problems(CommonConfig(tensorboard_logdir=folder)) == [
        f"common.tensorboard_logdir={folder} is not writable: it is not a folder. Set a folder that this user can write."
    ]


@pytest.mark.parametrize(
    ("key", "missing", "install"),
    [
        ("wandb_project", "wandb", "pip install 'wandb>=0.18'"),
        ("mlflow_experiment", "mlflow", "pip install 'mlflow>=2.14'"),
        ("mlflow_experiment", "sqlalchemy", "pip install 'mlflow>=2.14'"),  # mlflow-skinny, without a server
    ],
)
def test_a_trackers_missing_package_is_a_problem_of_the_config(
    key: str, missing: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sinks.problems(CommonConfig()) == []
    assert sinks.problems(CommonConfig(**{key: "speech"})) == [
        f"common.{key}=speech needs the package {missing}. Install it: {install}. Or leave the key out."
    ]
    if missing == "sqlalchemy":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
        assert sinks.problems(CommonConfig(**{key: "speech"})) == []


def test_a_new_sink_is_a_registered_function(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sinks, "SINKS", {})
    rows = Rows(room=1)

    @sinks.register_sink("common.rows")
    def open_rows(start: Start) -> Sink | None:
        return rows if start.common.log_file is None else None

    with pytest.raises(ValueError, match="'common.rows' is already registered"):
        sinks.register_sink("common.rows")(open_rows)
    opened = open_sinks(console, Start(CommonConfig(), tmp_path, 0))
    with console.following([0], 1):
        for update in (2, 4, 6):
            opened.write(EPOCH, update, 1, {"loss": 1.0})
    opened.close()
    assert (rows.rows, rows.closed) == ([(EPOCH, 2, 1, {"loss": 1.0})], 1)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "cannot write common.rows: No space left on device; training continues without it"
    ]
    assert len([record for record in caplog.records if record.name == EPOCH]) == 3, "others are written all the same"


class Findings(Rows):
    """A sink that takes findings, until its server does not answer."""

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        if len(self.rows) == self.room:
            raise ConnectionRefusedError(111, "Connection refused")
        self.rows.append((update, finding["name"]))


def test_findings_go_to_the_sinks_that_take_them(caplog: pytest.LogCaptureFixture) -> None:
    rows, findings = Rows(room=1), Findings(room=1)
    opened = sinks.Sinks({"rows": rows, "findings": findings})
    for update in (200, 400):
        opened.finding(update, {"name": "plateau"})
    assert (rows.rows, findings.rows) == ([], [(200, "plateau")])
    assert caplog.messages == ["cannot write findings: Connection refused; training continues without it"]
