"""A run that says what it sees, keeps a checkpoint, and ends when it has collapsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.distributed.exit_status import COLLAPSED
from tests.integration.conftest import Workplace

# causes that see what the numbers do not say: a drift from update 8 on, and a collapse from update 10 on
CAUSES = """
from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.causes import __path__
from fairseq.doctor.findings import CAUSES
CAUSES.pop("gradient-drift", None)

@cause("gradient-drift")
def drift(records):
    seen = records.training.updates[records.training.updates >= 8]
    if len(seen) and records.training.has("gnorm"):
        return Finding("gradient-drift", "warning", "Gradients grow.", ["Their norm is 3."], "Lower the rate.", 8, int(seen[-1]))

@cause("planted")
def planted(records):
    updates = records.training.updates
    if len(updates) and updates[-1] >= 10 and records.setting("criterion._name") == "wav2vec":
        return Finding("planted", "error", "All is lost.", [], "Start over.", 10, int(updates[-1]), has_collapsed=True)

@cause("broken")
def broken(records):
    return records.training.values("loss")[10 ** 6]
"""


def plug_in(workplace: Workplace) -> str:
    folder = workplace.folder / "plug_in"
    folder.mkdir()
    (folder / "__init__.py").write_text(CAUSES)
    return f"common.user_dir={folder}"


def updates_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


def findings(folder: Path) -> list[tuple[int, str]]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "findings.jsonl").read_text().splitlines()]
    return [(row["num_updates"], row["name"]) for row in rows if row["name"] in ("gradient-drift", "planted")]


@pytest.mark.process
def test_a_run_that_has_collapsed_ends_with_its_checkpoint(workplace: Workplace) -> None:
    plug = plug_in(workplace)
    overrides = (plug, "common.doctor=stop", "optimization.max_update=30", "checkpoint.keep_interval_updates=1")
    output = workplace.run(*overrides, "distributed_training.distributed_world_size=2", status=COLLAPSED)
    folder = workplace.folder / "run"
    # both processes end one update after the wish of the first
    assert updates_in(folder / "checkpoint_last.pt") == 11
    assert "warning: gradient-drift: Gradients grow. Their norm is 3. Lower the rate. (since update 8" in output
    assert output.count("gradient-drift: Gradients grow") == 1 and output.count("planted: All is lost.") == 1
    assert "stopping: the run has collapsed (planted), and common.doctor is stop" in output
    assert "ended at update 11, because the run has collapsed; saved." in output
    assert output.count("the doctor cannot look for broken: IndexError") == 1 and "Traceback" not in output
    assert findings(folder) == [(8, "gradient-drift"), (10, "planted")]
    # checkpoint_last.pt of an epoch's end before update 8, which later saves have replaced under its own name
    assert updates_in(folder / "checkpoint_before_divergence.pt") == 6

    # the same command resumes, says nothing twice, and ends at once; with warn, it continues
    overrides = (*overrides, "optimization.update_freq=[2]")
    output = workplace.run(*overrides, status=COLLAPSED)
    assert "Gradients grow" not in output and "stopping: the run has collapsed" in output
    assert updates_in(folder / "checkpoint_last.pt") == 12
    output = workplace.run(*overrides, "common.doctor=warn", "optimization.max_update=14")
    assert "Gradients grow" not in output and "done training" in output
    assert findings(folder) == [(8, "gradient-drift"), (10, "planted")]


def test_a_run_without_a_doctor_says_nothing(workplace: Workplace) -> None:
    output = workplace.run(plug_in(workplace), "common.doctor=off", "optimization.max_update=10")
    assert "gradient-drift" not in output and not (workplace.folder / "run/findings.jsonl").exists()
