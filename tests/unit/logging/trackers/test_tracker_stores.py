"""Each tracker's own store, read back after a run that was killed and resumed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from fairseq.logging.metrics_file import MetricsFile
from fairseq.logging.trackers import memory, wandb_parts
from fairseq.logging.trackers.queue import Queued, Tracker
from fairseq.logging.trackers.tensorboard import BoardTracker

FINDING = {"name": "plateau", "severity": "warning", "title": "Chance.", "evidence": ["6.658"], "change": "Wait."}
CONFIG = {"common": {"seed": 1}, "optimization": {"lr": [0.1]}}


def live(tracker: Tracker, file: MetricsFile, start: int, last: int, lost: int = 0, loss: float = 0.1) -> None:
    """One process of a run: updates start + 1 to last; the tracker never gets the last `lost` of them."""
    file.rewind(start)
    queued = Queued("Tracker", tracker, file.path, patience=100.0)
    for update in range(start + 1, last + 1):
        file.write("train", update, 1, {"loss": loss * update})
        if update <= last - lost:
            queued.write("train", update, 1, {"loss": loss * update})
    queued.finding(last, FINDING)
    queued.close()


def test_tensorboard_has_each_row_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for start, last, lost in ((0, 8, 5), (4, 10, 0)):  # the first process got update 4 into its file only
        live(BoardTracker(str(tmp_path / "board"), start, CONFIG), file, start, last, lost)
    read = events.EventAccumulator(str(tmp_path / "board/train")).Reload()
    assert [event.step for event in read.Scalars("loss")] == list(range(1, 11))
    texts = events.EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"config/text_summary", "findings/plateau/text_summary"} <= set(texts.Tags()["tensors"])


@pytest.mark.slow
def test_wandb_has_each_row_once_over_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from fairseq.logging.trackers.wandb_run import Wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for start, last, lost in ((0, 8, 5), (4, 10, 0)):
        live(Wandb("project", tmp_path, CONFIG, continues=start > 0), file, start, last, lost)
    parts = wandb_parts.parts(tmp_path, memory.recall(tmp_path / "wandb.json")["id"])
    rows = [row for part in parts for row in wandb_parts.history(part)]
    assert len(parts) == 2
    assert [row["_step"] for row in rows] == list(range(10))
    assert [(row["num_updates"], row["train/loss"]) for row in rows] == [(i, 0.1 * i) for i in range(1, 11)]
    assert b"update 10, warning: Chance. 6.658 Wait." in parts[-1].read_bytes()


@pytest.mark.slow
def test_mlflow_has_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from fairseq.logging.trackers.mlflow_run import Mlflow

    uri = f"sqlite:///{tmp_path / 'store/mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for start, last, lost in ((0, 8, 5), (4, 10, 0)):
        config = {**CONFIG, "optimization": {"lr": [0.1 + start]}}
        live(Mlflow("experiment", tmp_path, config, continues=start > 0), file, start, last, lost)
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(memory.recall(tmp_path / "mlflow.json")["run_id"])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(i, 0.1 * i) for i in range(1, 11)]
    assert run.data.params == {"common.seed": "1", "optimization.lr": "[0.1]"}
    assert run.data.tags["resumed.optimization.lr"] == "[4.1]"
    assert run.data.tags["findings.plateau"] == "update 10, warning: Chance. 6.658 Wait."
    assert run.info.status == "FINISHED" and sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "mlflow.db"
    ]


def piece(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", 0, len(data), kind) + data


def test_records_may_span_blocks_and_end_early(tmp_path: Path) -> None:
    full, first, middle, last = 1, 2, 3, 4
    whole = wandb_parts.BLOCK - wandb_parts.HEADER
    to_block = b"a" * (whole - 7 - 7 - 3 - 4)  # leaves 4 bytes, too few for a record's head
    data = b":W&Bxxx" + piece(full, b"one") + piece(full, to_block) + bytes(4)
    assert len(data) == wandb_parts.BLOCK
    data += (
        piece(first, b"b" * (wandb_parts.BLOCK - 7)) + piece(middle, b"c" * (wandb_parts.BLOCK - 7)) + piece(last, b"d")
    )
    file = tmp_path / "run.wandb"
    file.write_bytes(data + piece(full, b"cut off")[:-1])
    found = list(wandb_parts.records(file))
    assert [(record[:1], len(record)) for record in found] == [(b"o", 3), (b"a", len(to_block)), (b"b", 2 * 32761 + 1)]


def test_memory_outlives_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "new/wandb.json"
    assert memory.recall(file) == {}
    memory.keep(file, id="x")
    assert memory.recall(file) == {"id": "x"}
    file.write_text("{")
    assert memory.recall(file) == {}
