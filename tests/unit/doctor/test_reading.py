"""Records from a run's folder, and from logs of fairseq's in both forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fairseq.doctor.reading import read, read_log, read_run

CONFIG = {"_name": None, "common": {"seed": 1, "log_format": "json"}, "optimization": {"lr": [0.0005]}}

# the lines of fairseq 0.12: every number is text; `valid` is the logger of the validation set of that name
JSON = """\
2026-11-29 02:27:36 | INFO | fairseq_cli.train | {config}
2026-11-29 02:27:40 | INFO | fairseq.trainer | NOTE: gradient overflow detected, ignoring gradient, setting loss scale to: 2.0
2026-11-29 02:27:46 | INFO | train_inner | {{"epoch": 1, "update": 0.5, "loss": "9.85", "accuracy": "0.02", "wps": "0", "num_updates": "20", "lr": "6.25e-05", "gnorm": "nan", "clip": "100", "loss_scale": "4"}}
2026-11-29 02:28:25 | INFO | valid | {{"epoch": 1, "valid_loss": "6.4", "valid_accuracy": "0.11", "valid_num_updates": "40", "valid_best_loss": "6.4"}}
2026-11-29 02:28:26 | INFO | train | {{"epoch": 1, "train_loss": "6.62", "train_num_updates": "40", "train_wall": "132"}}
2026-11-29 02:28:46 | INFO | train_inner | {{"epoch": 2, "update": 1.5, "loss": "6.5", "num_updates": "60", "lr": "0.0001", "clip": "0"}}
"""
SIMPLE = """\
2026-11-29 02:27:36 | INFO | fairseq_cli.train | {config}
2026-11-29 02:27:46 | INFO | train_inner | epoch 001:     20 / 40 loss=9.85, accuracy=0.02, wps=0, num_updates=20, lr=6.25e-05, gnorm=nan, clip=100, loss_scale=4
2026-11-29 02:28:25 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 6.4 | accuracy 0.11 | num_updates 40 | best_loss 6.4
2026-11-29 02:28:26 | INFO | train | epoch 001 | loss 6.62 | num_updates 40 | train_wall 132
2026-11-29 02:28:46 | INFO | train_inner | epoch 002:     20 / 40 loss=6.5, num_updates=60, lr=0.0001, clip=0
2026-11-29 02:28:58 | INFO | train_inner | epoch 002:     30 / 40 loss=6.4, num_upd"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [JSON, SIMPLE.rpartition("\n")[0] + "\n"])
def test_both_forms_of_a_log_of_fairseq_give_the_same_columns(tmp_path: Path, text: str):
    records = read(written(tmp_path / "train.log", text.format(config=CONFIG)))
    training, valid, epoch = records.rows("train_inner"), records.rows("valid"), records.rows("train")
    assert training.updates.tolist() == [20, 60] and training.values("loss").tolist() == [9.85, 6.5]
    assert training.values("clip").tolist() == [100, 0] and training.values("lr")[0] == 6.25e-05
    assert np.isnan(training.values("gnorm")[0]) and training.rows[0]["epoch"] == 1
    assert (valid.updates.tolist(), valid.values("accuracy").tolist()) == ([40], [0.11])
    assert (epoch.updates.tolist(), epoch.values("wall" if text is JSON else "train_wall").tolist()) == ([40], [132])
    assert records.setting("optimization.lr") == [0.0005] and not records.is_over


def test_a_log_that_ends_within_a_line_or_has_no_num_updates_is_read_as_far_as_it_goes(tmp_path: Path):
    records = read_log(written(tmp_path / "killed.log", SIMPLE.format(config=CONFIG)))
    training = records.rows("train_inner")
    assert training.updates.tolist() == [20, 60, 70] and training.values("loss")[-1] == 6.4, "70 = 40 + 30"


OURS = """\
2026-11-29 02:31:40 | INFO | fairseq_cli.train | 52 updates per epoch, 32.0 seconds of audio per update
2026-11-29 02:32:00 | INFO | train_inner | {"epoch": 1, "update": 0.385, "loss": "7.994"}
2026-11-29 02:32:36 | INFO | train | {"epoch": 1, "train_loss": "7.252"}
2026-11-29 02:32:37 | INFO | dev | {"epoch": 1, "dev_loss": "7.1"}
2026-11-29 02:32:47 | INFO | train_inner | {"epoch": 2, "update": 1.154, "loss": "6.691"}
"""


def test_a_log_of_this_package_says_updates_by_epochs(tmp_path: Path):
    records = read_log(written(tmp_path / "ours.log", OURS))
    updates = {split: records.rows(split).updates.tolist() for split in ("train_inner", "train", "dev")}
    assert updates == {"train_inner": [20, 60], "train": [52], "dev": [52]}
    with pytest.raises(ValueError, match="not a log of a run"):
        read_log(written(tmp_path / "part.log", OURS.partition("\n")[2].partition("\n")[0]))


def test_a_resumed_run_repeats_no_rows_and_hydra_writes_lines_of_its_own(tmp_path: Path):
    lines = [
        "[2026-11-29 02:27:36,123][fairseq_cli.train][INFO] - " + str(CONFIG),
        *(row(update) for update in (20, 40, 60)),
        "[2026-11-29 03:00:00,123][fairseq.trainer][INFO] - Loaded checkpoint a/checkpoint_last.pt (epoch 2 @ 30 updates)",
        *(row(update) for update in (40, 60, 80)),
        "[2026-11-29 03:10:00,123][fairseq_cli.train][INFO] - done training in 600.5 seconds",
    ]
    (tmp_path / "hydra").mkdir()
    written(tmp_path / "hydra" / "hydra_train.log", "\n".join(lines))
    records = read(tmp_path / "hydra")
    assert records.rows("train_inner").updates.tolist() == [20, 40, 60, 80]
    assert records.starts == [30] and records.is_over and records.setting("common.seed") == 1


def row(update: int) -> str:
    values = {"epoch": 1, "update": 0.1, "loss": "6.5", "num_updates": str(update)}
    return f"[2026-11-29 02:27:46,123][train_inner][INFO] - {json.dumps(values)}"


def test_a_config_that_is_not_made_of_literals_is_not_run(tmp_path: Path):
    config = "{'common': {'seed': __import__('os').system('touch gone')}}"
    records = read_log(written(tmp_path / "train.log", JSON.format(config=config)))
    assert records.config == {} and not (tmp_path / "gone").exists()


def test_a_folder_of_a_run_that_was_killed(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    rows = [{"split": "train_inner", "num_updates": 20, "epoch": 1, "loss": 6.5}, {"split": "valid", "num_updates": 20}]
    written(folder / "metrics.jsonl", "\n".join(map(json.dumps, rows)) + '\n{"split": "valid", "num_up')
    first, second = {"num_updates": 0}, {"num_updates": 20, "config": CONFIG, "data": {"train": {"hours": 1.5}}}
    written(folder / "run.jsonl", f"{json.dumps(first)}\n{json.dumps(second)}\n")
    written(folder / "codes.jsonl", json.dumps({"num_updates": 20, "perplexity": [80.0]}) + "\n")
    (folder / "run.lock").touch()
    records = read_run(tmp_path)  # hydra's folder, with the default checkpoint.save_dir in it
    assert len(records.training) == 1 and list(records.validation) == ["valid"]
    assert records.starts == [0, 20] and records.data == {"train": {"hours": 1.5}} and not records.is_over
    assert records.codes[0]["perplexity"] == [80.0] and records.hypotheses == []
    (folder / "run.lock").unlink()
    (folder / "run.jsonl").unlink()
    older = read_run(folder, config_of=lambda place: {"common": {"seed": len(list(place.iterdir()))}})
    assert older.is_over and older.setting("common.seed") == 2 and older.starts == []


def test_what_is_not_a_run_is_named_with_what_was_looked_for(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is not a run's folder: it has none of metrics.jsonl, checkpoints/metrics"):
        read(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"is not a log of a run: it has no lines such as"):
        read(written(tmp_path / "notes.txt", "buy bread\n"))


BARE_JSON = """\
begin dry-run validation on "valid" subset
{"epoch": 1, "update": 0.4, "loss_0": "6.791", "num_updates": "20", "gnorm": "1.156"}
{"epoch": 1, "train_loss_0": "6.716", "train_num_updates": "51"}
{"epoch": 2, "valid_loss_0": "6.646", "valid_num_updates": "60"}
"""
BARE_SIMPLE = """\
begin dry-run validation on "valid" subset
epoch 001:     20 / 51 loss_0=6.791, num_updates=20, gnorm=1.156
epoch 001 | loss_0 6.716 | num_updates 51
epoch 002 | valid on 'valid' subset | loss_0 6.646 | num_updates 60
"""


@pytest.mark.parametrize("text", [BARE_JSON, BARE_SIMPLE], ids=["json", "simple"])
def test_the_file_of_log_file_has_no_times_and_names(tmp_path: Path, text: str):
    (tmp_path / "log_file.log").write_text(text)
    records = read_log(tmp_path / "log_file.log")
    found = {s: (records.rows(s).updates.tolist(), records.rows(s).values("loss_0").tolist()) for s in SETS}
    assert found == {"train_inner": ([20], [6.791]), "train": ([51], [6.716]), "valid": ([60], [6.646])}


SETS = ("train_inner", "train", "valid")
