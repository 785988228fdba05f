"""metrics.jsonl: one row an update, over crashes and resumes; strict JSON whatever the values."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from fairseq.logging.metrics_file import MetricsFile, iterate_rows, read_rows


def test_rows_are_strict_json(tmp_path):
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    values = {"loss": float("nan"), "ids": torch.tensor([1, 2]), "nested": {"x": float("inf")}}
    file.append({"num_updates": torch.tensor(3), "tag": "train", **values})
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row == {"num_updates": 3, "tag": "train", "loss": "nan", "ids": [1, 2], "nested": {"x": "inf"}}
    with pytest.raises(ValueError, match="num_updates"):
        file.append({"loss": 1.0})


def test_rewind_drops_rows_past_the_loaded_update_and_torn_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    assert file.rewind(0) == 0 and not path.exists()
    for update in (2, 4, 6):
        file.append({"num_updates": update, "split": "train" if update < 6 else "valid"})
    with open(path, "a") as torn:
        torn.write('{"num_updates": 4, "loss": 1')  # killed while writing
    resumed = MetricsFile(path)
    assert resumed.rewind(4) == 2
    resumed.append({"num_updates": 5})
    assert [row["num_updates"] for row in read_rows(path)] == [2, 4, 5]
    assert [row["num_updates"] for row in read_rows(path, split="train")] == [2, 4]
    assert resumed.rewind(0) == 3 and read_rows(path) == []


def test_rows_of_another_run_are_kept_in_a_file_of_their_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        file = MetricsFile(path)
        assert file.rewind(0, continues=False) == (0 if number == 1 else 2)
        file.append({"num_updates": 2, "loss": number})
        file.append({"num_updates": 4, "loss": number})
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.1.jsonl")] == [1, 1]
    assert [row["loss"] for row in read_rows(path)] == [2, 2]
    assert MetricsFile(path).rewind(2, continues=False) == 1  # an older checkpoint of this run was asked for
    assert [row["num_updates"] for row in read_rows(tmp_path / "metrics.2.jsonl")] == [2, 4]
    assert [row["num_updates"] for row in read_rows(path)] == [2]
    assert MetricsFile(path).rewind(2, continues=False) == 0 and not (tmp_path / "metrics.3.jsonl").exists()


def test_rows_that_will_be_written_again_go(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for update, split in ((2, "valid"), (4, "train_inner"), (4, "valid")):
        file.append({"num_updates": update, "split": split})
    assert file.rewind(4, again={"valid"}) == 1
    assert [(row["num_updates"], row["split"]) for row in read_rows(file.path)] == [(2, "valid"), (4, "train_inner")]


def test_a_file_that_cannot_be_rewound_is_reported_once(tmp_path, caplog, monkeypatch):
    folder = MetricsFile(tmp_path / "metrics.jsonl")
    folder.path.mkdir()
    assert folder.rewind(3) == 0
    folder.append({"num_updates": 4})
    assert caplog.text.count("cannot write") == 1 and "Is a directory" in caplog.text
    full = MetricsFile(tmp_path / "full.jsonl")
    for update in (2, 4):
        full.append({"num_updates": update})
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *rest: pytest.fail("a full disk takes no second file"))
    assert full.rewind(2) == 1 and [row["num_updates"] for row in read_rows(full.path)] == [2]


def test_unwritable_file_is_reported_once_and_the_run_goes_on(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    file = MetricsFile(blocked / "metrics.jsonl")  # its folder is a file
    file.append({"num_updates": 1})
    file.append({"num_updates": 2})
    assert caplog.text.count("cannot write") == 1


@pytest.mark.process
def test_a_row_that_was_written_in_part_takes_no_other_with_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    script = (
        "import resource, signal, sys\n"
        "from fairseq.logging.metrics_file import MetricsFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "file = MetricsFile(sys.argv[1])\n"
        "file.append({'num_updates': 1})\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + 9, hard))\n"
        "file.append({'num_updates': 2})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "file.append({'num_updates': 3})\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert [row["num_updates"] for row in read_rows(path)] == [1, 3]


def test_damaged_lines_among_many_are_left_out(tmp_path):
    """Lines are parsed in blocks, and one by one in a block with a damaged line."""
    lines = [f'{{"split": "a", "num_updates": {n}}}' for n in range(2500)]
    lines[1200:1203] = ['{"split": "a"', '"num_updates": 1200}', "7"]  # together, they are a row
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines) + '\n{"split": "a", "num_upd')
    assert [row["num_updates"] for row in read_rows(path)] == [*range(1200), *range(1203, 2500)]
    assert list(iterate_rows(path)) == read_rows(path, "a") and read_rows(path, "b") == []
