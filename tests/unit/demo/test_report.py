"""The demo's report, on runs whose numbers are known."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

MODEL = {
    "num_negatives": 100,
    "cross_sample_negatives": 0,
    "codebook_negatives": 0,
    "latent_groups": 2,
    "latent_vars": 64,
}


@pytest.fixture
def report(demo_dir: Path) -> ModuleType:
    return importlib.import_module("report")


def write_run(save_dir: Path, loss: float, accuracy: float, perplexity: float) -> None:
    rows = [
        {"split": "train_inner", "num_updates": 20, "loss_0": 6.6, "audio_s_per_s": 80.0},
        {"split": "valid", "num_updates": 20, "loss_0": 9.9, "accuracy": 0.9, "code_perplexity": 1.0},
        {"split": "train_inner", "num_updates": 40, "loss_0": 6.1, "audio_s_per_s": 100.0},
        {"split": "train_inner", "num_updates": 60, "loss_0": 6.0, "audio_s_per_s": 90.0},
        {"split": "valid", "num_updates": 60, "loss_0": loss, "accuracy": accuracy, "code_perplexity": perplexity},
    ]
    (save_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.save({"cfg": {"model": MODEL}}, save_dir / "checkpoint_last.pt")


def test_a_run_that_learned(report: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path, 6.0, 0.05, 40.0)
    learned = report.read_run(tmp_path, "valid")
    assert learned.updates == 60 and learned.num_codes == 128 and learned.audio_seconds_per_second == 90.0
    assert learned.chance_bits == pytest.approx(6.658, abs=1e-3)
    assert learned.shortfalls() == []
    text = report.describe(learned)
    assert (
        "0.658 bits better" in text and "5.0 times chance" in text and "5.00 %" in text and "checkpoint_last.pt" in text
    )
    assert "NOT" not in text


@pytest.mark.parametrize(
    ("loss", "accuracy", "perplexity", "reason"),
    [
        (6.2, 0.05, 40.0, "loss"),
        (6.0, 0.02, 40.0, "accuracy"),
        (6.0, 0.05, 12.0, "perplexity"),
        (float("nan"), 0.05, 40.0, "loss"),
    ],
)
def test_a_run_that_did_not(
    report: ModuleType, tmp_path: Path, loss: float, accuracy: float, perplexity: float, reason: str
) -> None:
    write_run(tmp_path, loss, accuracy, perplexity)
    learned = report.read_run(tmp_path, "valid")
    assert len(learned.shortfalls()) == 1 and reason in learned.shortfalls()[0]
    assert "NOT" in report.describe(learned)


def test_what_is_missing_is_named(report: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no checkpoint"):
        report.read_run(tmp_path, "valid")
    write_run(tmp_path, 6.0, 0.05, 40.0)
    with pytest.raises(ValueError, match='no validation of the subset "dev"'):
        report.read_run(tmp_path, "dev")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no metrics\.jsonl"):
        report.read_run(tmp_path, "valid")
