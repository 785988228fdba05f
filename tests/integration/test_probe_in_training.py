"""A run that probes its model at each validation: the same run otherwise, resumed exactly, on two processes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.evaluation.probe.in_training import copy_of
from tests.integration.conftest import Workplace, make_trainer

BY_PROBE = ("checkpoint.best_checkpoint_metric=probe_cer", "optimization.max_update=8")
TIMES = {"wall", "wps", "audio_s_per_s", "ups", "train_wall", "data_wait", "host_cpu", "host_gb"}


def results(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what the clock and the machine decide, and without the probe."""
    left_out = ("time_", "probe_", "rank_wait", "slowest")
    return [
        {key: value for key, value in row.items() if key not in TIMES and not key.startswith(left_out)} for row in rows
    ]


def test_a_probed_run_trains_as_without_a_probe_and_resumes_exactly(workplace: Workplace, labelled: Path) -> None:
    workplace.run("optimization.max_update=8", "checkpoint.save_dir=plain")
    probed = (*BY_PROBE, f"dataset.probe_data={labelled}")
    output = workplace.run(*probed)
    assert (
        output.count("probe: CER ") == len(workplace.rows("valid")) == 3
        and "best layer" in output
        and "seconds (dataset.probe_minutes" in output
    )
    for split in ("train_inner", "valid"):
        assert results(workplace.rows(split)) == results(workplace.rows(split, "plain"))
    rows = workplace.rows("valid")
    assert [row["num_updates"] for row in rows] == [4, 6, 8]
    best = torch.load(workplace.folder / "run/checkpoint_best.pt", weights_only=True)
    least = min(row["probe_cer"] for row in rows)
    assert best["extra_state"]["best"] == pytest.approx(least, abs=1e-3)
    weights = [
        torch.load(workplace.folder / f"{name}/checkpoint_last.pt", weights_only=True)["model"]
        for name in ("plain", "run")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    (before,) = (workplace.folder / "run").glob("checkpoint_*_4.pt")
    again = (*probed, "checkpoint.save_dir=again")
    workplace.run(*again, f"checkpoint.restore_file={before}")
    resumed = workplace.rows("valid", "again")
    assert [row["probe_loss"] for row in resumed] == [row["probe_loss"] for row in rows[1:]]
    assert results(resumed) == results(rows[1:])


def test_a_copy_leaves_the_model_and_the_random_state_alone(corpus: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(corpus, tmp_path)
    model, state = trainer.unwrapped_model, torch.random.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    copy = copy_of(trainer)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert copy.encoder is not model and torch.equal(copy.encoder.state_dict()["mask_emb"], weights["mask_emb"])


@pytest.mark.process
def test_two_processes_agree_on_the_probe(workplace: Workplace, labelled: Path) -> None:
    two = ("distributed_training.distributed_world_size=2", "optimization.max_update=4")
    workplace.run(*BY_PROBE, f"dataset.probe_data={labelled}", *two)
    row = workplace.rows("valid")[-1]
    assert row["probe_cer"] > 0 and row["probe_loss"] > 0
    labels = labelled / "train.ltr"
    output = workplace.run(
        *BY_PROBE, f"dataset.probe_data={labels.parent}", "dataset.probe_labels=phn", *two, status=None
    )
    assert "train.phn" in output and "dataset.probe_data" in output and "Traceback" not in output
