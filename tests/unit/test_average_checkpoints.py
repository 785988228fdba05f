"""The mean of checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairseq_cli.average_checkpoints import average_checkpoints, cli_main


def write(path: Path, value: float, dtype: torch.dtype = torch.float32) -> str:
    weights = {"w": torch.full((3,), value, dtype=dtype), "n": torch.tensor(int(value))}
    torch.save({"model": weights, "cfg": {"from": path.name}, "extra_state": {"epoch": int(value)}}, path)
    return str(path)


def mean_of(path: Path) -> float:
    return torch.load(path, weights_only=True)["model"]["w"][0].item()


def test_mean_and_what_stays(tmp_path: Path) -> None:
    inputs = [write(tmp_path / f"{value}.pt", value) for value in (1, 2, 6)]
    averaged = average_checkpoints(inputs)
    assert averaged["model"]["w"].tolist() == [3.0] * 3 and averaged["model"]["n"] == 3
    assert averaged["cfg"] == {"from": "1.pt"} and averaged["extra_state"] == {"epoch": 1}
    half = average_checkpoints([write(tmp_path / "h.pt", 1, torch.float16), write(tmp_path / "i.pt", 2, torch.float16)])
    assert half["model"]["w"].dtype == torch.float32 and half["model"]["w"][0] == 1.5


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--num-epoch-checkpoints", "2"], 3.5),
        (["--num-epoch-checkpoints", "2", "--checkpoint-upper-bound", "3"], 2.5),
        (["--num-update-checkpoints", "2"], 15.0),
        (["--num-best-checkpoints", "2"], 35.0),
        (["--num-best-checkpoints", "2", "--maximize"], 45.0),
    ],
)
def test_choosing_in_a_folder(tmp_path: Path, options: list[str], expected: float) -> None:
    for epoch in (1, 2, 3, 4):
        write(tmp_path / f"checkpoint{epoch}.pt", epoch)
    for update, value in ((100, 5), (200, 10), (1000, 20)):
        write(tmp_path / f"checkpoint_1_{update}.pt", value)
    for value, wer in ((30, "7.500"), (40, "12.25"), (50, "30.1")):
        write(tmp_path / f"checkpoint.best_wer_{wer}.pt", value)
    assert cli_main(["--inputs", str(tmp_path), "--output", str(tmp_path / "mean.pt"), *options]) == 0
    assert mean_of(tmp_path / "mean.pt") == expected


@pytest.mark.parametrize("symbols, refused", [("abc", False), ("acb", True), ("abcd", True), (None, False)])
def test_dictionaries_must_agree(tmp_path: Path, symbols: str | None, refused: bool) -> None:
    paths = []
    for name, letters in (("one", "abc"), ("two", symbols)):
        paths.append(str(tmp_path / f"{name}.pt"))
        task_state = {} if letters is None else {"target_symbols": {"symbols": ["<s>", *letters]}}
        torch.save({"model": {"w": torch.ones(2)}, "task_state": task_state}, paths[-1])
    if refused:
        reasons = "symbol 2 is 'c' and 'b'|5 and 4 symbols"
        with pytest.raises(ValueError, match=rf"two\.pt and .*one\.pt have different dictionaries: ({reasons})"):
            average_checkpoints(paths)
    else:
        assert average_checkpoints(paths)["model"]["w"].tolist() == [1, 1]


def test_what_cannot_be_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "checkpoint1.pt", 1)
    torch.save({"model": {"other": torch.zeros(3)}}, tmp_path / "other.pt")
    output = ["--output", str(tmp_path / "mean.pt")]
    assert cli_main(["--inputs", one, str(tmp_path / "other.pt"), *output]) == 1
    assert "different weights: n, other, w" in capsys.readouterr().err
    torch.save({"a": 1}, tmp_path / "none.pt")
    assert cli_main(["--inputs", str(tmp_path / "none.pt"), *output]) == 1
    assert "none.pt is not a checkpoint: it has no entry 'model', only a." in capsys.readouterr().err
    assert cli_main(["--inputs", str(tmp_path), "--num-epoch-checkpoints", "2", *output]) == 1
    assert "has 1 such checkpoints, but 2 are requested" in capsys.readouterr().err
    assert cli_main(["--inputs", one, "--checkpoint-upper-bound", "2", *output]) == 1
    assert not (tmp_path / "mean.pt").exists()


@pytest.mark.process
def test_fairseqs_script_is_the_same(repository: Path, tmp_path: Path) -> None:
    inputs = [write(tmp_path / f"{value}.pt", value) for value in (1, 2)]
    command = [
        sys.executable,
        str(repository / "scripts/average_checkpoints.py"),
        "--inputs",
        *inputs,
        "--output",
        str(tmp_path / "m.pt"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert mean_of(tmp_path / "m.pt") == 1.5
