"""Saving and continuing a run, with a small trainer that holds one weight and a place in the data."""

from __future__ import annotations

import errno
import logging
import os
import re

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import checkpoint_utils, device
from fairseq.checkpoint import io
from fairseq.checkpoint.record import RunRecord
from fairseq.conversion.portable_model import complete_config
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed.strategy import DataParallel
from fairseq.training.state import TrainingState

MODEL = {"_name": "no_such_model", "dim": 4, "dropout": 0.1}
TASK = {"_name": "no_such_task", "data": "/data/a", "normalize": True}


class Iterator:
    def __init__(self, epoch):
        self.epoch, self.done = epoch, 0

    def end_of_epoch(self):
        return self.done == 5

    def state_dict(self):
        return {"version": 3, "epoch": self.epoch, "iterations_in_epoch": self.done}

    def load_state_dict(self, state):
        self.epoch, self.done = state["epoch"], state["iterations_in_epoch"]


class Task:
    def __init__(self, digest):
        self.digest, self.loaded = digest, False

    def data_fingerprint(self):
        assert self.loaded, "asked before the training data was loaded"
        return {"train": self.digest}


class Trainer:
    """What checkpoint_utils needs of a trainer."""

    def __init__(self, cfg, digest="d1", master=True):
        self.cfg, self.task, self.is_data_parallel_master = cfg, Task(digest), master
        self.weight, self.momentum, self.updates = torch.zeros(100), torch.zeros(100), 0
        self.run_record, self.strategy, self.device = RunRecord(), DataParallel(None, None), device.get("cpu")
        self.loaded_with = None
        self.before_step = lambda: None

    def only_steps_change(self):
        return [self.weight, self.momentum]

    def get_num_updates(self):
        return self.updates

    def get_train_iterator(self, epoch, load_dataset=True, **kwargs):
        self.task.loaded = load_dataset
        return Iterator(epoch)

    def state_dict(self):
        return {
            "cfg": OmegaConf.to_container(self.cfg),
            "model": {"weight": self.weight.clone()},
            "optimizer_history": [{"num_updates": self.updates}],
            "extra_state": {"data_fingerprint": self.task.data_fingerprint()},
            "last_optimizer_state": {"momentum": self.momentum.clone()},
        }

    def load_state_dict(self, state, reset_optimizer, reset_lr_scheduler, reset_meters, optimizer_overrides):
        self.loaded_with = (reset_optimizer, reset_lr_scheduler, reset_meters, optimizer_overrides)
        self.weight = state["model"]["weight"]
        if not reset_optimizer:
            self.momentum, self.updates = (
                state["last_optimizer_state"]["momentum"],
                state["optimizer_history"][-1]["num_updates"],
            )
        return state["extra_state"]


class Run:
    """One life of a process: what train.py does with checkpoints."""

    def __init__(self, save_dir, model=None, task=None, digest="d1", **checkpoint):
        cfg = OmegaConf.structured(CheckpointConfig(save_dir=str(save_dir), model_parallel_size=1, **checkpoint))
        self.checkpoint = cfg
        whole = OmegaConf.create({"model": {**MODEL, **(model or {})}, "task": {**TASK, **(task or {})}})
        self.trainer = Trainer(whole, digest)
        self.extra_state, self.itr = checkpoint_utils.load_checkpoint(cfg, self.trainer)

    def train(self, updates):
        for _ in range(updates):
            self.trainer.weight = self.trainer.weight + 1
            self.trainer.momentum = self.trainer.momentum + 0.5
            self.trainer.updates += 1
            self.itr.done += 1
        return self

    def save(self, val_loss=None):
        return checkpoint_utils.save_checkpoint(self.checkpoint, self.trainer, self.itr, val_loss)


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO)


def files(folder):
    return sorted(os.listdir(folder))


def test_the_same_command_continues(tmp_path, caplog):
    first = Run(tmp_path, save_interval_updates=3)
    assert first.extra_state is None
    assert f"no checkpoint in {tmp_path}: starting at update 0" in caplog.text
    result = first.train(3).save(val_loss=2.5)
    assert [os.path.basename(path) for path in result.paths] == [
        "checkpoint_last.pt",
        "checkpoint_1_3.pt",
        "checkpoint_best.pt",
    ]
    assert result.error is None and files(tmp_path) == sorted(os.path.basename(path) for path in result.paths)

    second = Run(tmp_path, save_interval_updates=3)
    assert (second.trainer.updates, second.itr.epoch, second.itr.done) == (3, 1, 3)
    assert torch.equal(second.trainer.weight, first.trainer.weight) and torch.equal(
        second.trainer.momentum, first.trainer.momentum
    )
    assert second.trainer.run_record.best == 2.5 and second.extra_state["val_loss"] == 2.5
    assert second.trainer.loaded_with == (False, False, False, {})
    assert f"loaded checkpoint {tmp_path}/checkpoint_last.pt (epoch 1, 3 updates)" in caplog.messages
    assert [os.path.basename(path) for path in second.train(2).save(val_loss=3.0).paths] == [
        "checkpoint_last.pt",
        "checkpoint1.pt",
    ]


def test_files_open_without_this_package(tmp_path):
    path = Run(tmp_path).train(1).save(val_loss=1.0).paths[0]
    loaded = torch.load(path, weights_only=True)
    assert set(loaded) == {"cfg", "model", "optimizer_history", "extra_state", "last_optimizer_state"}
    assert loaded["extra_state"]["best"] == 1.0 and loaded["extra_state"]["train_iterator"]["epoch"] == 1


def test_only_the_first_process_writes(tmp_path):
    run = Run(tmp_path / "run")
    run.trainer.is_data_parallel_master = False
    assert run.train(1).save(val_loss=1.0) is None and not (tmp_path / "run").exists()
    assert run.trainer.run_record.best == 1.0  # every process counts patience alike
    silent = Run(tmp_path / "run", no_save=True)
    assert silent.train(1).save(1.0) is None and not (tmp_path / "run").exists()


def test_keep_settings_are_followed(tmp_path):
    run = Run(tmp_path, save_interval_updates=1, keep_interval_updates=2)
    for loss in (3.0, 4.0, 2.0, 5.0):
        run.train(1).save(loss)
    assert files(tmp_path) == ["checkpoint_1_3.pt", "checkpoint_1_4.pt", "checkpoint_best.pt", "checkpoint_last.pt"]
    assert io.peek(tmp_path / "checkpoint_best.pt").num_updates == 3
    assert run.save(val_loss=None).paths  # without a validation (a signal): last only, best stays
    assert io.peek(tmp_path / "checkpoint_best.pt").num_updates == 3


def test_patience_survives_a_resume(tmp_path):
    run = Run(tmp_path, patience=3)
    for loss in (1.0, 2.0, 2.0):
        run.train(1)
        assert not checkpoint_utils.out_of_patience(run.checkpoint, run.trainer, loss)
        run.save(loss)
    resumed = Run(tmp_path, patience=3).train(1)
    assert checkpoint_utils.out_of_patience(resumed.checkpoint, resumed.trainer, 2.0)
    assert not checkpoint_utils.out_of_patience(OmegaConf.create({"patience": -1}), resumed.trainer, 2.0)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_last_checkpoint_is_reported_and_the_newest_good_one_used(tmp_path, caplog, damage):
    run = Run(tmp_path, save_interval_updates=2)
    run.train(2).save()
    run.train(2).save()
    last = tmp_path / "checkpoint_last.pt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[content.index(run.trainer.weight.numpy().tobytes()) + 7] ^= 4
    else:
        content = b""
    last.write_bytes(content)
    resumed = Run(tmp_path, save_interval_updates=2)
    assert resumed.trainer.updates == 4 and torch.equal(resumed.trainer.weight, run.trainer.weight)
    assert (
        f"skipping the damaged checkpoint {last}" in caplog.text
        and "checkpoint_1_4.pt (epoch 1, 4 updates)" in caplog.text
    )

    os.truncate(tmp_path / "checkpoint_1_4.pt", 10)
    assert Run(tmp_path, save_interval_updates=2).trainer.updates == 2
    os.truncate(tmp_path / "checkpoint_1_2.pt", 10)
    with pytest.raises(ValueError, match="only damaged checkpoints"):  # never silently from random weights
        Run(tmp_path)


def test_a_full_disk_is_reported_and_the_run_goes_on(tmp_path, caplog, monkeypatch):
    run = Run(tmp_path, save_interval_updates=1)
    run.train(1).save()

    def full(obj, file, **options):
        file.write(b"partly")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        result = run.train(1).save(val_loss=1.0)
    assert result.paths == [] and "No space left" in result.error
    assert re.search(
        r"cannot write checkpoint .*checkpoint_last\.pt: .*No space left on device \([\d,]+ MiB free", caplog.text
    )
    assert files(tmp_path) == ["checkpoint_1_1.pt", "checkpoint_last.pt"]
    assert Run(tmp_path, save_interval_updates=1).trainer.updates == 1
    assert len(run.train(1).save().paths) == 2  # room again: saved as ever


def test_a_disk_that_fills_between_two_files_keeps_what_is_written(tmp_path, monkeypatch):
    run = Run(tmp_path, save_interval_updates=1)

    def full(source, path):
        raise io.CheckpointWriteError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "copy", full)
    result = run.train(1).save()
    assert [os.path.basename(path) for path in result.paths] == [
        "checkpoint_last.pt"
    ] and "checkpoint_1_1.pt" in result.error
    assert Run(tmp_path).trainer.updates == 1


def updates_in(path):
    return io.peek(path).num_updates


def kill_before_copying(monkeypatch, run, name, val_loss):
    """Save as a process does that is killed before this file of the save."""
    copy = io.copy

    def killed(source, path):
        if os.path.basename(path) == name:
            raise KeyboardInterrupt
        return copy(source, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(io, "copy", killed)
        run.save(val_loss)


@pytest.mark.parametrize("name", ["checkpoint_1_2.pt", "checkpoint_best.pt"])
def test_a_kill_between_two_files_of_a_save_leaves_no_stale_one(tmp_path, monkeypatch, caplog, name):
    run = Run(tmp_path, save_interval_updates=1)
    run.train(1).save(val_loss=2.0)
    kill_before_copying(monkeypatch, run.train(1), name, val_loss=1.0)
    assert updates_in(tmp_path / "checkpoint_last.pt") == 2 and updates_in(tmp_path / "checkpoint_best.pt") == 1
    again = Run(tmp_path, save_interval_updates=1)
    assert again.trainer.updates == 2 and again.trainer.run_record.best == 1.0
    assert updates_in(tmp_path / "checkpoint_best.pt") == 2 and updates_in(tmp_path / "checkpoint_1_2.pt") == 2
    assert f"{name}, which the interrupted save did not write" in caplog.text
    again.train(1).save(val_loss=3.0)
    assert updates_in(tmp_path / "checkpoint_best.pt") == 2
    caplog.clear()
    Run(tmp_path, save_interval_updates=1)
    assert "the interrupted save" not in caplog.text


def test_a_best_that_the_disk_refused_does_not_stand_in_the_way_of_the_next(tmp_path, monkeypatch):
    """The file holds the best of what was saved; the record still knows the best of all, from which patience is
    counted.
    """
    run = Run(tmp_path)
    run.train(1).save(val_loss=3.0)
    with monkeypatch.context() as patch:
        patch.setattr(
            io, "copy", lambda source, path: (_ for _ in ()).throw(io.CheckpointWriteError(errno.ENOSPC, "full"))
        )
        run.train(1).save(val_loss=1.0)
    assert updates_in(tmp_path / "checkpoint_best.pt") == 1
    run.train(1).save(val_loss=2.0)
    assert updates_in(tmp_path / "checkpoint_best.pt") == 3
    run.train(1).save(val_loss=2.5)
    assert updates_in(tmp_path / "checkpoint_best.pt") == 3 and run.trainer.run_record.best == 1.0
    assert run.trainer.run_record.validations_without_better == 2


def test_links(tmp_path):
    """A link to nowhere is no fresh start; one to a file is continued, and the file stays as it is."""
    Run(tmp_path / "old").train(3).save()
    os.makedirs(tmp_path / "new")
    last, target = tmp_path / "new/checkpoint_last.pt", tmp_path / "old/checkpoint_last.pt"
    os.symlink("/mnt/gone/checkpoint_last.pt", last)
    with pytest.raises(
        ValueError,
        match=f"Cannot resume from {last}: it is a symbolic link to /mnt/gone/checkpoint_last.pt, which does",
    ):
        Run(tmp_path / "new")
    with pytest.raises(ValueError, match="restore_file=checkpoint_last2.pt.*symbolic link to gone.pt"):
        os.symlink("gone.pt", tmp_path / "new/checkpoint_last2.pt")
        Run(tmp_path / "new", restore_file="checkpoint_last2.pt")
    os.remove(last)
    os.symlink(target, last)
    run = Run(tmp_path / "new")
    assert run.trainer.updates == 3
    run.train(1).save()
    assert not last.is_symlink() and updates_in(last) == 4 and updates_in(target) == 3


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path):
    Run(tmp_path).train(1).save()
    (tmp_path / "checkpoint_last.pt.tmp").write_bytes(b"half")
    Run(tmp_path)
    assert files(tmp_path) == ["checkpoint_last.pt"]


# -- another config ----------------------------------------------------------------------------------------------------


def test_another_model_or_task_config_is_an_error_with_ways_out(tmp_path):
    Run(tmp_path).train(1).save()
    with pytest.raises(ValueError) as raised:
        Run(tmp_path, model={"dim": 8}, task={"normalize": False})
    text = str(raised.value)
    assert "model.dim: 4 -> 8; task.normalize: True -> False" in text
    assert "checkpoint.save_dir" in text and "reset_optimizer" in text and "Restore these values" in text
    reset = {"reset_optimizer": True, "reset_lr_scheduler": True, "reset_meters": True, "reset_dataloader": True}
    assert Run(tmp_path, model={"dropout": 0.2}, **reset).trainer.updates == 0


def test_a_moved_data_folder_with_the_same_manifest_is_no_difference(tmp_path, caplog):
    Run(tmp_path).train(1).save()
    assert Run(tmp_path, task={"data": "/elsewhere"}).trainer.updates == 1
    with pytest.raises(ValueError, match="task.data: '/data/a' -> '/elsewhere'"):
        Run(tmp_path, task={"data": "/elsewhere"}, digest="other")
    Run(tmp_path, digest="other")
    assert "the manifests changed since" in caplog.text


def test_fingerprints_compare_the_splits_that_both_know():
    assert checkpoint_utils.same_data({"train": 1, "valid": 2}, {"train": 1}) is True
    assert checkpoint_utils.same_data({"train": 1}, {"train": 2}) is False
    assert (
        checkpoint_utils.same_data(None, {"train": 2}) is None and checkpoint_utils.same_data({}, {"train": 2}) is None
    )


# -- where a run begins ------------------------------------------------------------------------------------------------


def test_a_foreign_file_lists_differences_and_the_same_command_continues(tmp_path, caplog):
    foreign = Run(tmp_path / "old").train(4).save().paths[0]
    settings = {
        "restore_file": foreign,
        "reset_optimizer": True,
        "reset_dataloader": True,
        "optimizer_overrides": "{'eps': 1e-3}",
    }
    run = Run(tmp_path / "new", model={"dropout": 0.3}, **settings)
    assert run.trainer.loaded_with == (True, False, False, {"eps": 1e-3})
    assert (run.trainer.updates, run.itr.done, run.trainer.weight[0].item()) == (0, 0, 4.0)
    assert "model.dropout: 0.1 -> 0.3" in caplog.text
    assert "from checkpoint.restore_file; reset: optimizer, dataloader" in caplog.text
    run.train(2).save()
    again = Run(tmp_path / "new", model={"dropout": 0.3}, **settings)  # the same command, typed again
    assert (again.trainer.updates, again.trainer.weight[0].item(), again.itr.done) == (2, 6.0, 2)
    assert again.trainer.loaded_with[0] is False and "resuming the run" in caplog.messages[-1]
    again.train(1).save()
    assert Run(tmp_path / "new", model={"dropout": 0.3}, **settings).trainer.updates == 3


def test_restore_file_inside_save_dir_goes_back(tmp_path):
    run = Run(tmp_path, save_interval_updates=2)
    run.train(2).save()
    run.train(2).save()
    back = Run(tmp_path, restore_file="checkpoint_1_2.pt", save_interval_updates=2)
    assert back.trainer.updates == 2
    back.train(1).save()
    assert Run(tmp_path, restore_file="checkpoint_1_2.pt", save_interval_updates=2).trainer.updates == 3
    with pytest.raises(ValueError, match="another config"):  # it is this run's own checkpoint
        os.remove(tmp_path / "checkpoint_last.pt")
        Run(tmp_path, restore_file="checkpoint_1_2.pt", model={"dim": 8})


def test_finetune_from_model_takes_the_weights_once(tmp_path, caplog):
    model = Run(tmp_path / "old").train(4).save(val_loss=1.0).paths[0]
    run = Run(tmp_path / "new", finetune_from_model=model, model={"dim": 5})
    assert (run.trainer.updates, run.trainer.weight[0].item(), run.itr.done, run.trainer.run_record.best) == (
        0,
        4.0,
        0,
        None,
    )
    assert run.trainer.loaded_with == (True, True, True, {}) and "model.dim: 4 -> 5" in caplog.text
    run.train(1).save()
    assert Run(tmp_path / "new", finetune_from_model=model, model={"dim": 5}).trainer.updates == 1


WIDE = complete_config(
    {"encoder_embed_dim": 4, "encoder_layers": 2, "conv_feature_layers": "[(4, 3, 2)]", "dropout": 0.5}
)
NARROW = {**WIDE, "encoder_embed_dim": 3, "dropout": 0.1}


@pytest.mark.parametrize(
    ("saved", "asked", "advice"),
    [
        (WIDE, NARROW, r"Set model\.encoder_embed_dim=4 as in it"),
        (
            WIDE,
            {**WIDE, "conv_feature_layers": "[(3,3,2)]"},
            r"Set \"model\.conv_feature_layers='\[\(4, 3, 2\)\]'\" as in",
        ),
        (
            {"_name": "wav2vec_ctc", "w2v_args": {"model": WIDE}},
            WIDE,
            "It is fine-tuned: resume from the pre-trained checkpoint",
        ),
        (
            WIDE,
            {"_name": "wav2vec_ctc", "w2v_args": {"model": NARROW}},
            r"It is only pre-trained: set model\.w2v_path to it",
        ),
    ],
)
def test_weights_of_another_model_are_named(tmp_path, monkeypatch, saved, asked, advice):
    io.save({"cfg": {"model": saved, "task": TASK}, "model": torch.nn.Linear(4, 2).state_dict()}, tmp_path / "other.pt")
    monkeypatch.setattr(Task, "adapted_weights", lambda self, state, model, only_weights: state["model"], raising=False)

    def load_state_dict(self, state, **reset):
        parts = (None, None, None, None, None)  # of a trainer that weights do not touch
        own = TrainingState(self.cfg, self.task, torch.nn.Linear(3, 2), *parts, self.strategy)
        return own.restore(state, **reset)

    monkeypatch.setattr(Trainer, "load_state_dict", load_state_dict)
    found = r"other\.pt \(from checkpoint\.finetune_from_model\) does not fit: it holds a \w+ of width 4 with 2 blocks, the config "
    found += r"asks for a \w+ of width \d with 2 blocks \(weight is \(2, 4\), not \(2, 3\)\)\. "
    with pytest.raises(ValueError, match=found + advice):
        Run(tmp_path / "new", finetune_from_model=str(tmp_path / "other.pt"), model=asked)


def test_continue_once(tmp_path):
    other = Run(tmp_path / "old").train(4).save().paths[0]
    run = Run(tmp_path / "new", continue_once=other)
    assert (run.trainer.updates, run.itr.done) == (4, 4)
    run.train(1).save()
    assert Run(tmp_path / "new", continue_once=other).trainer.updates == 5


def test_without_last_checkpoints_the_newest_is_continued(tmp_path, caplog):
    settings = {"no_last_checkpoints": True, "save_interval_updates": 2}
    run = Run(tmp_path, **settings)
    run.train(2).save()
    run.train(2).save()
    assert files(tmp_path) == ["checkpoint_1_2.pt", "checkpoint_1_4.pt"]
    assert Run(tmp_path, **settings).trainer.updates == 4
    assert Run(tmp_path).trainer.updates == 0  # a removed checkpoint_last.pt means a new start, which is said
    assert (
        "The folder holds checkpoint_1_2.pt, checkpoint_1_4.pt; to resume from one of them, set "
        "checkpoint.restore_file=<name>" in caplog.messages[-1]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restore_file": "nowhere.pt"}, "restore_file=nowhere.pt: there is no such file"),
        ({"finetune_from_model": "nowhere.pt"}, "finetune_from_model=nowhere.pt"),
        ({"continue_once": "nowhere.pt"}, "continue_once=nowhere.pt"),
        ({"finetune_from_model": "a.pt", "reset_meters": True}, "cannot be combined"),
        ({"finetune_from_model": "a.pt", "restore_file": "b.pt"}, "Set only one of them"),
        ({"optimizer_overrides": "__import__('os')"}, "optimizer_overrides"),
        ({"optimizer_overrides": "[1]"}, "must be a Python dict"),
    ],
)
def test_mistakes_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, **settings)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(1), "step": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no entry 'model', only weights, step"):
        Run(tmp_path / "run", restore_file=str(tmp_path / "other.pt"))


def test_the_folder_is_tried_before_training(tmp_path):
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "a" / "b"))
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoint.save_dir=.* is not writable"):
        checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "file" / "run"))
