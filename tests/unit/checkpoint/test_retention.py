"""File names and pruning by fairseq's rules."""

from __future__ import annotations

import os

import pytest

from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.retention import checkpoint_names, checkpoint_paths, outdated
from fairseq.dataclass.configs import CheckpointConfig


def config(tmp_path, **values):
    return CheckpointConfig(save_dir=str(tmp_path), **values)


def touch(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text("")


def base(paths):
    return sorted(os.path.basename(path) for path in paths)


def names(cfg, epoch=2, updates=40, end_of_epoch=False, val_loss=None, is_best=False):
    return checkpoint_names(cfg, epoch, updates, end_of_epoch, val_loss, is_best)


def test_names(tmp_path):
    cfg = config(tmp_path, save_interval_updates=20, save_interval=2)
    assert names(cfg) == ["checkpoint_last.pt", "checkpoint_2_40.pt"]
    assert names(cfg, updates=41) == ["checkpoint_last.pt"]
    # an interval's too, unlike fairseq
    at_the_end = ["checkpoint_last.pt", "checkpoint2.pt", "checkpoint_2_40.pt", "checkpoint_best.pt"]
    assert names(cfg, end_of_epoch=True, val_loss=1.0, is_best=True) == at_the_end
    assert names(cfg, updates=41, end_of_epoch=True) == ["checkpoint_last.pt", "checkpoint2.pt"]
    assert names(cfg, epoch=3, updates=41, end_of_epoch=True) == ["checkpoint_last.pt"]
    assert names(config(tmp_path, no_epoch_checkpoints=True), end_of_epoch=True) == ["checkpoint_last.pt"]
    assert names(config(tmp_path, no_last_checkpoints=True), end_of_epoch=True) == ["checkpoint2.pt"]
    assert names(config(tmp_path, checkpoint_suffix="-x"), end_of_epoch=True) == [
        "checkpoint_last-x.pt",
        "checkpoint2-x.pt",
    ]


def test_interval_checkpoints_are_pruned(tmp_path):
    by_updates = ["checkpoint_1_10.pt", "checkpoint_1_20.pt", "checkpoint_2_30.pt", "checkpoint_2_40.pt"]
    touch(tmp_path, *by_updates, "checkpoint_last.pt", "checkpoint1.pt")
    assert base(outdated(config(tmp_path, keep_interval_updates=1))) == by_updates[:3]
    patterned = config(tmp_path, keep_interval_updates=1, keep_interval_updates_pattern=20)
    assert base(outdated(patterned)) == ["checkpoint_1_10.pt"]
    assert outdated(config(tmp_path)) == []


def test_epoch_checkpoints_are_pruned_by_number(tmp_path):
    touch(tmp_path, "checkpoint8.pt", "checkpoint9.pt", "checkpoint10.pt", "checkpoint_best.pt")
    assert base(outdated(config(tmp_path, keep_last_epochs=2))) == ["checkpoint8.pt"]
    assert base(checkpoint_paths(tmp_path)) == ["checkpoint10.pt", "checkpoint8.pt", "checkpoint9.pt"]
    assert [number for _, number in checkpoint_paths(tmp_path, keep_match=True)] == [10, 9, 8]
    assert checkpoint_paths(tmp_path / "nowhere") == []


@pytest.mark.parametrize("maximize", [False, True])
def test_the_best_are_kept(tmp_path, maximize):
    settings = {
        "best_checkpoint_metric": "wer",
        "maximize_best_checkpoint_metric": maximize,
        "no_last_checkpoints": True,
    }
    cfg = config(tmp_path, keep_best_checkpoints=2, **settings)
    for updates, value in enumerate((3.0, 2.0, 5.0, 1.0, 4.0)):
        for name in names(cfg, updates=updates, val_loss=value):
            assert name.startswith(f"checkpoint.best_wer_{value:.3f}")
            touch(tmp_path, name)
        for path in outdated(cfg):
            os.remove(path)
    kept = [name[len("checkpoint.best_wer_") :][:5] for name in sorted(os.listdir(tmp_path))]
    assert kept == (["4.000", "5.000"] if maximize else ["1.000", "2.000"])
    assert names(cfg, val_loss=float("nan")) == []


def test_negative_values_are_ordered_too(tmp_path):
    cfg = config(tmp_path, keep_best_checkpoints=1, no_last_checkpoints=True)
    touch(tmp_path, "checkpoint.best_loss_-1.2340.pt", "checkpoint.best_loss_-0.5000.pt")
    assert base(outdated(cfg)) == ["checkpoint.best_loss_-0.5000.pt"]


def test_record_of_the_best_and_patience():
    record = RunRecord()
    assert not record.is_best(None) and not record.is_best(float("nan"))
    record.observe(2.0, 10)
    assert record.is_best(2.0)
    record.observe(float("nan"), 15)
    record.observe(3.0, 20)
    record.observe(3.0, 20)  # the same validation, noted by two callers
    assert (record.best, record.validations_without_better) == (2.0, 2)
    assert record.out_of_patience(2) and not record.out_of_patience(3) and not record.out_of_patience(-1)
    again = RunRecord()
    again.started_from = "overwritten"
    again.load_state_dict(record.state_dict())
    assert (again.best, again.validations_without_better, again.started_from) == (2.0, 2, None)
    record.observe(2.0, 30)
    # equal: no improvement, yet worth being the best file
    assert record.validations_without_better == 3 and record.is_best(2.0)
    record.observe(1.0, 40)
    assert (record.best, record.validations_without_better) == (1.0, 0)
    # the disk refused the one of 1.0: until it is met again, what is better than the file is worth being it
    record.saved_best = 2.0
    assert record.is_best(1.5) and not record.is_best(2.5)
    fresh = RunRecord()
    fresh.load_state_dict(record.state_dict(), reset_best=True)
    assert fresh.best is None


def test_record_that_maximizes_and_fairseqs_own():
    record = RunRecord(maximize=True)
    record.load_state_dict({"best": 0.5})  # what fairseq writes
    record.observe(0.4, 1)
    assert record.best == 0.5 and not record.is_best(0.4) and record.is_best(0.6)


def test_a_stop_is_always_saved(tmp_path):
    cfg = config(tmp_path, no_last_checkpoints=True)
    assert checkpoint_names(cfg, 2, 41, False, None, False) == []
    assert checkpoint_names(cfg, 2, 41, False, None, False, stopping=True) == ["checkpoint_2_41.pt"]
