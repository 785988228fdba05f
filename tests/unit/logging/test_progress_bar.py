"""Progress bars: fairseq's line formats, the time left, and the places that lines go to."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from fairseq.logging import progress_bar as module
from fairseq.logging.meters import AverageMeter
from fairseq.logging.progress_bar import EtaClock, format_duration, format_stat, progress_bar
from fairseq.logging.trackers import tensorboard


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO)
    EtaClock._current = None
    yield
    tensorboard.close()


class Resumed(list):
    n = 2  # two updates of this epoch were done before


def test_json_lines(caplog):
    bar = progress_bar(Resumed("ab"), log_format="json", log_interval=2, epoch=3)
    for step, _ in enumerate(bar, start=13):
        bar.log({"loss": 1.23456789, "name": "x"}, tag="train_inner", step=step)
    bar.print({"loss": 1.5}, tag="train", step=14)
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert lines == [{"epoch": 3, "update": 3.0, "loss": "1.23457", "name": "x"}, {"epoch": 3, "train_loss": "1.5"}]
    assert [record.name for record in caplog.records] == ["train_inner", "train"]
    assert module.logger.name == "fairseq.logging.progress_bar"


def test_simple_lines(caplog):
    bar = progress_bar(range(4), log_format="simple", log_interval=2, epoch=1, prefix="demo")
    for step, _ in enumerate(bar, start=1):
        bar.log({"loss": torch.tensor(2), "lr": 0.0005}, tag="train_inner", step=step)
    bar.print({"loss": 2.0, "ppl": 4}, tag="train")
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 001 | demo:      2 / 4 loss=2, lr=0.0005",
        "epoch 001 | demo:      4 / 4 loss=2, lr=0.0005",
        "epoch 001 | demo | loss 2 | ppl 4",
    ]


def test_none_is_silent_and_tqdm_without_terminal_is_simple(caplog):
    bar = progress_bar([1], log_format="none", log_interval=1)
    assert list(bar) == [1]
    bar.log({"loss": 1}, step=1)
    bar.print({"loss": 1})
    assert not caplog.records
    assert isinstance(progress_bar([1], log_format="tqdm"), module.SimpleProgressBar)


def test_tqdm_on_a_terminal(monkeypatch, caplog, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = progress_bar(Resumed("ab"), log_format=None, epoch=1)
    assert isinstance(bar, module.TqdmProgressBar) and len(bar) == 2
    for _ in bar:
        bar.log({"loss": 1.0}, step=1)
    assert (bar.tqdm.n, bar.tqdm.total) == (4, 4)
    bar.print({"loss": 1.0}, tag="train")
    assert caplog.messages == ["epoch 001 | loss 1"]


def test_time_left_spans_epochs(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for epoch in (1, 2):
        start = 3 * (epoch - 1)
        bar = progress_bar(
            range(3), log_format="json", log_interval=1, epoch=epoch, total_updates=106, start_update=start
        )
        for step, _ in enumerate(bar, start=start + 1):
            clock[0] += 10.0
            bar.log({}, step=step)
    etas = [json.loads(message)["eta"] for message in caplog.messages]
    assert etas == ["17m30s", "17m20s", "17m10s", "17m00s", "16m50s", "16m40s"]


def test_clock_restarts_when_updates_go_back():
    clock = EtaClock(total_updates=100)
    clock.mark(50, now=0.0)
    assert clock.seconds_left() is None
    clock.mark(0, now=5.0)
    clock.mark(10, now=15.0)
    assert clock.seconds_left() == 90.0
    clock.mark(120, now=20.0)
    assert clock.seconds_left() == 0.0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (3725, "1h02m"), (183600, "2d03h")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_stats_of_meters():
    meter = AverageMeter()
    meter.update(1.23456)
    assert format_stat(meter) == "1.235"
    assert format_stat(torch.tensor([1, 2])) == [1, 2]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="common.log_format is 'xml'"):
        progress_bar([], log_format="xml")
    with pytest.raises(ValueError, match="common.wandb_project"):
        progress_bar([], log_format="json", wandb_project="p")


def test_log_file_gets_each_line_once(tmp_path):
    path = tmp_path / "logs" / "train.log"
    before = list(module.logger.handlers)
    try:
        for epoch in (1, 2):
            progress_bar([0], log_format="json", log_file=str(path), epoch=epoch).print({"loss": epoch})
    finally:
        for handler in set(module.logger.handlers) - set(before):
            handler.close()
            module.logger.removeHandler(handler)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_tensorboard_scalars(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    bar = progress_bar(range(2), log_format="none", tensorboard_logdir=str(tmp_path))
    assert len(bar) == 2 and list(bar) == [0, 1]
    bar.log({"loss": 2.5, "text": "no number", "num_updates": 7}, tag="train_inner")
    bar.print({"loss": torch.tensor(1.5)}, tag="valid", step=8)
    bar.update_config({"model": {"dim": 4}})
    tensorboard.close()
    for tag, value, step in (("train_inner", 2.5, 7), ("valid", 1.5, 8)):
        read = events.EventAccumulator(str(tmp_path / tag)).Reload()
        assert read.Tags()["scalars"] == ["loss"]
        assert [(e.step, e.value) for e in read.Scalars("loss")] == [(step, value)]


def test_missing_tensorboard_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    bar = progress_bar([0], log_format="none", tensorboard_logdir=str(tmp_path))
    bar.log({"loss": 1}, tag="train", step=1)
    bar.log({"loss": 1}, tag="valid", step=2)
    assert caplog.text.count("tensorboard is not installed") == 1
