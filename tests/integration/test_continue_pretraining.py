"""Continued pre-training through the command: the stock YAML without --config-dir, fresh counts, temperatures that
go on, a report.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fairseq import checkpoint_utils
from tests.integration.conftest import Workplace
from tests.warm import Warm

TINY_MODEL = [
    "model.final_dim=16",
    "model.encoder_embed_dim=32",
    "model.encoder_layers=2",
    "model.encoder_ffn_embed_dim=64",
    "model.latent_vars=8",
    "model.encoder_attention_heads=2",
    "model.conv_feature_layers='[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2'",
    "model.conv_pos=16",
    "model.conv_pos_groups=4",
    "model.num_negatives=10",
    "model.latent_temp=[2.0,0.5,0.9]",
]


def continue_from(workplace: Workplace, source: Path, *overrides: str) -> str:
    """The documented command, at a size for tests."""
    small = [
        "common.cpu=true",
        "common.log_interval=1",
        "checkpoint.save_dir=continued",
        "checkpoint.save_interval_updates=2",
        "optimization.update_freq=[1]",
        "dataset.num_workers=0",
        "dataset.max_tokens=96000",
        "task.min_sample_size=8000",
        "task.max_sample_size=24000",
        "dataset.required_batch_size_multiple=1",
        "lr_scheduler.warmup_updates=2",
    ]
    named = [
        "--config-name",
        "wav2vec2_base_continue",
        f"task.data={workplace.corpus}",
        f"checkpoint.finetune_from_model={source}",
    ]
    done = workplace.python_module("fairseq_cli.hydra_train", *named, *small, *TINY_MODEL, *overrides)
    assert done.code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: Warm) -> Path:
    """A checkpoint of 4 updates: the temperature is 2 * 0.9^4 there."""
    workplace = Workplace(tmp_path_factory.mktemp("source"), corpus, warm)
    workplace.run("optimization.max_update=4", *TINY_MODEL)
    return workplace.folder / "run" / "checkpoint_last.pt"


class Continued(NamedTuple):
    """A run that has made 2 updates from `source`."""

    workplace: Workplace
    output: str


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: Warm, source: Path) -> Continued:
    workplace = Workplace(tmp_path_factory.mktemp("continued"), corpus, warm)
    return Continued(workplace, continue_from(workplace, source, "optimization.max_update=2"))


def test_weights_come_in_and_all_else_begins_anew(continued: Continued, source: Path) -> None:
    workplace, output = continued
    assert "temperature schedule: continues at update 4 " in output
    report = next(line for line in output.splitlines() if "codebook use before the first update" in line)
    assert "minutes of the new audio" in report and "of 8 codewords" in report
    assert output.index("codebook use") < output.index("train_inner")
    rows = workplace.rows(save_dir="continued")
    assert [row["num_updates"] for row in rows] == [1, 2]
    assert [row["temp"] for row in rows] == [pytest.approx(2 * 0.9**4, abs=1e-3), pytest.approx(2 * 0.9**5, abs=1e-3)]
    assert rows[0]["lr"] <= 0.0001
    state = checkpoint_utils.load_checkpoint_to_cpu(str(workplace.folder / "continued" / "checkpoint_last.pt"))
    assert state["optimizer_history"][-1]["num_updates"] == 2
    before = checkpoint_utils.load_checkpoint_to_cpu(str(source))["model"]
    moved = max((state["model"][name] - before[name]).abs().max().item() for name in before)
    assert 0 < moved < 0.01  # two warm-up steps away from the source, nowhere near new random weights


def test_resumed_it_keeps_its_temperature_and_needs_no_report(
    workplace: Workplace, continued: Continued, source: Path
) -> None:
    shutil.copytree(continued.workplace.folder / "continued", workplace.folder / "continued")
    output = continue_from(workplace, source, "optimization.max_update=4")
    assert "codebook use" not in output
    assert [row["temp"] for row in workplace.rows(save_dir="continued")][2:] == [
        pytest.approx(2 * 0.9**n, abs=1e-3) for n in (6, 7)
    ]
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(workplace.folder / "continued" / "checkpoint_last.pt")]
    )
    assert model.quantizer.curr_temp == pytest.approx(2 * 0.9**8)


def test_a_collapsed_codebook_is_warned_of(workplace: Workplace, source: Path) -> None:
    state = torch.load(source, weights_only=True)
    # one codeword of group 0 for everything; 1 of 8 is above a tenth
    state["model"]["quantizer.weight_proj.bias"][0] = 1000.0
    state["model"]["quantizer.weight_proj.bias"][8] = 1000.0
    checkpoint_utils.torch_persistent_save(state, str(workplace.folder / "collapsed.pt"))
    output = continue_from(workplace, workplace.folder / "collapsed.pt", "optimization.max_update=1")
    assert "group 0: 1 of 8 codewords, 1.0 effective" in output


def test_without_a_source_it_is_refused(workplace: Workplace) -> None:
    output = workplace.run("checkpoint.continue_pretraining=true", status=None)
    assert "checkpoint.finetune_from_model is not set" in output
