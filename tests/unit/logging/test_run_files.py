"""Files of lines next to the metrics, over resumes."""

from __future__ import annotations

from pathlib import Path

from fairseq.logging.metrics_file import read_rows
from fairseq.logging.run_files import CODES, HYPOTHESES, RUN, RunFiles


def updates(folder: Path, name: str) -> list[int]:
    return [line["num_updates"] for line in read_rows(folder / name)]


def test_a_resumed_run_continues_its_lines_and_writes_none_twice(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, 0)
    files.append(RUN, {"num_updates": 0, "config": {"common": {"seed": 1}}})
    for update in (5, 10, 15):
        for split in ("train", "valid"):
            files.append(CODES, {"num_updates": update, "split": split})
        files.append(HYPOTHESES, {"num_updates": update, "split": "valid", "id": "a"})
    resumed = RunFiles(tmp_path, 10, again=("valid",))  # the validation after update 10 is repeated
    assert updates(tmp_path, CODES) == [5, 5, 10] and updates(tmp_path, HYPOTHESES) == [5]
    last = resumed.last(CODES, "train"), resumed.last(CODES, "valid"), resumed.last(CODES, "test")
    assert [line and line["num_updates"] for line in last] == [10, 5, None]
    resumed.append(RUN, {"num_updates": 10})
    RunFiles(tmp_path, 10).append(RUN, {"num_updates": 10})  # resumed from there twice
    assert updates(tmp_path, RUN) == [0, 10, 10]
    assert updates(tmp_path, RUN) == [0, 10, 10] and RunFiles(tmp_path, 3) and updates(tmp_path, RUN) == [0]


def test_another_run_keeps_the_files_of_the_one_before(tmp_path: Path) -> None:
    RunFiles(tmp_path, 0, continues=False).append(RUN, {"num_updates": 0, "time": "then"})
    files = RunFiles(tmp_path, 0, continues=False)
    files.append(RUN, {"num_updates": 0, "time": "now"})
    assert [line["time"] for line in read_rows(tmp_path / RUN)] == ["now"]
    assert [line["time"] for line in read_rows(tmp_path / "run.1.jsonl")] == ["then"]
    assert files.last(CODES, "valid") is None


def test_a_file_that_cannot_be_read_has_no_last_line(tmp_path: Path) -> None:
    (tmp_path / CODES).mkdir()
    assert RunFiles(tmp_path, 0).last(CODES, "valid") is None
