"""Rows as trackers take them, from a run and from its metrics.jsonl, and a finding as text."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fairseq.logging.metrics_file import MetricsFile
from fairseq.logging.trackers.rows import row_of, rows_of_file, text_of


def test_a_row_is_the_same_from_the_run_and_from_the_file(tmp_path: Path) -> None:
    stats = {"loss": torch.tensor(0.5), "lr": float("inf"), "wer": 3, "text": "x", "counts": [1, 2]}
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write("valid", 7, 2, stats)
    with file.path.open("a") as lines:
        lines.write('{"num_updates": 8, "split": "valid"}\n{"num')  # without its epoch, and cut off
    row = row_of("valid", 7, 2, stats)
    assert rows_of_file(file.path) == [row]
    assert row.values == {"loss": 0.5, "lr": math.inf, "wer": 3.0}
    assert (row.place, dict(row.named)["valid/loss"]) == (("valid", 7), 0.5)
    assert rows_of_file(tmp_path / "none") == []


def test_a_finding_is_one_paragraph() -> None:
    finding = {"name": "plateau", "severity": "warning", "title": "A.", "evidence": ["B.", "C."], "change": "D."}
    assert text_of(1200, finding) == "update 1,200, warning: A. B. C. D."
