"""`optimization.update_freq` of a run that resumes with another number of processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fairseq.checkpoint import io, update_size
from fairseq.checkpoint.source import ALL, Resets, Source
from fairseq.checkpoint.update_size import Saved, decide
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import utils as distributed


def saved(processes: int, *update_freq: int, configured: list[int] | None = None, epoch: int = 1) -> Saved:
    return Saved(processes, list(update_freq), configured or list(update_freq), epoch)


@pytest.mark.parametrize(
    ("before", "processes", "configured", "wanted"),
    [
        (saved(1, 2), 2, [2], [1]),
        (saved(4, 1), 2, [1], [2]),
        (saved(4, 2), 1, [2], [8]),
        (saved(2, 3), 2, [3], [3]),  # the same number
        (saved(2, 1, configured=[2]), 1, [2], [2]),  # back to the number that the config is for
        (saved(2, 1, configured=[2]), 2, [2], [1]),  # the command with two processes, run again
        (saved(64, 1), 8, [8], [8]),  # changed by hand, with the same product
        (saved(2, 1, 2, 4), 1, [1, 2, 4], [2, 4, 8]),  # one for each epoch
        (saved(1, 1, 2, 4, epoch=2), 2, [1, 2, 4], [1, 1, 2]),  # the first epoch is over
        (saved(1, 3, 4, epoch=7), 2, [3, 4], [1, 2]),  # and the last number is for all later ones
    ],
)
def test_updates_keep_their_batches(before: Saved, processes: int, configured: list[int], wanted: list[int]) -> None:
    found = decide("last.pt", before, processes, configured, keep=True)
    assert found.update_freq == wanted
    assert bool(found.note) == (wanted != configured)
    for epoch in range(before.epoch, 9):
        assert processes * update_size._at(wanted, epoch) == update_size._at(before.sizes(), epoch)


def test_the_log_says_what_changes() -> None:
    assert decide("run/checkpoint_last.pt", saved(1, 2), 2, [2], keep=True).note == (
        "processes: 2, in run/checkpoint_last.pt: 1. Updates keep their 2 batches: optimization.update_freq=1 instead "
        "of 2 (distributed_training.keep_update_size)"
    )
    assert decide("last.pt", saved(1, 2), 2, [2], keep=False) == (
        [2],
        "updates now have 4 batches, not 2 as in last.pt (distributed_training.keep_update_size=false)",
    )
    assert decide("last.pt", saved(1, 2), 1, [4], keep=True) == (
        [4],
        "updates now have 4 batches, not 2 as in last.pt: optimization.update_freq was changed from 2 to 4",
    )


@pytest.mark.parametrize(
    ("before", "processes", "choices"),
    [
        (saved(4, 1), 3, "Start 2 or 4 processes"),
        (saved(2, 3), 4, "Start 3 or 6 processes"),
        (saved(2, 1), 16, "Start 2 processes"),
        (saved(2, 2, 3), 3, "Start 2 processes"),
        (saved(1, 1), 2, "Start 1 process"),
    ],
)
def test_a_number_that_cannot_divide_an_update_is_refused_with_the_nearest(
    before: Saved, processes: int, choices: str
) -> None:
    with pytest.raises(ValueError, match=f"which {processes} processes cannot divide. {choices}; or set distributed_"):
        decide("last.pt", before, processes, before.configured, keep=True)


def write(path: Path, cfg: Any, **record: Any) -> None:
    extra = {"run_record": record, "train_iterator": {"epoch": 3}}
    io.save({"cfg": cfg, "model": {}, "extra_state": extra}, str(path))


def config(**groups: Any) -> Any:
    return resolve_config(groups)


def test_a_runs_config_is_changed_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint_last.pt"
    groups = {"distributed_training": {"distributed_world_size": 1}, "optimization": {"update_freq": [4]}}
    write(path, groups)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "broadcast_object", lambda obj: obj)
    source = Source(str(path), True, Resets(), "")
    cfg = config(optimization={"update_freq": [4]})
    with caplog.at_level(logging.INFO):
        assert update_size.keep(cfg, source) == [4]
    assert list(cfg.optimization.update_freq) == [2] and "optimization.update_freq=2 instead of 4" in caplog.text
    written = {"distributed_training": {"distributed_world_size": 2}, "optimization": {"update_freq": [2]}}
    write(path, written, configured_update_freq=[4])  # as the run with two processes does
    cfg = config(optimization={"update_freq": [4]})
    assert update_size.keep(cfg, source) == [4] and list(cfg.optimization.update_freq) == [2]
    for other in (source._replace(resets=ALL), source._replace(path=None)):
        cfg = config(optimization={"update_freq": [4]})
        assert update_size.keep(cfg, other) is None and list(cfg.optimization.update_freq) == [4]
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="3 processes cannot divide. Start 2 or 4 processes"):
        update_size.keep(config(optimization={"update_freq": [4]}), source)


@pytest.mark.parametrize(
    "cfg",
    [
        None,
        {},
        "text",
        {"distributed_training": {"distributed_world_size": 1}},
        {"distributed_training": {"distributed_world_size": 0}, "optimization": {"update_freq": []}},
    ],
)
def test_a_checkpoint_that_does_not_say_leaves_the_config_alone(cfg: Any) -> None:
    assert Saved.of(cfg, {}) is None
