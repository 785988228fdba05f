"""How runs end, and what is told before they begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from tests.integration.conftest import Workplace

SIGNAL = "import os, signal\nfrom fairseq.trainer import Trainer\nold = Trainer.train_step\ndef step(self, samples):\n" \
    "    old(self, samples)\n    if self.get_num_updates() == 4:\n        os.kill(os.getpid(), signal.SIGTERM)\nTrainer.train_step = step\n"
SKEW = "import os\nfrom fairseq.trainer import Trainer\ndef clock(self):\n    n = self.get_num_updates()\n" \
    "    return 4000.0 if n > 3 or (n == 3 and os.environ.get('RANK') == '0') else 0.0\nTrainer.cumulative_training_time = clock\n"


def plug_in(workplace: Workplace, text: str) -> str:
    folder = workplace.folder / "plug_in"
    folder.mkdir()
    (folder / "__init__.py").write_text(text)
    return f"common.user_dir={folder}"


def updates_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


@pytest.mark.parametrize("empty", ["train", "valid"])
def test_an_empty_set_is_told_before_the_first_update(workplace: Workplace, tmp_path: Path, empty: str) -> None:
    for name in ("train", "valid"):
        lines = (workplace.corpus / f"{name}.tsv").read_text()
        (tmp_path / f"{name}.tsv").write_text(lines.splitlines()[0] + "\n" if name == empty else lines)
    output = workplace.run(f"task.data={tmp_path}", status=None)
    assert f"{tmp_path}/{empty}.tsv: the data set has no utterance left" in output
    assert "Traceback" not in output and "train_inner" not in output
    assert ("dataset.max_tokens_valid" in output) == (empty == "valid")


def test_what_is_trained_is_saved_where_validation_fails(workplace: Workplace) -> None:
    plug = plug_in(workplace, "from fairseq_cli.train import Run\ndef fail(self): raise ValueError('bad set')\nRun.validate = fail\n")
    output = workplace.run("checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=3", plug, status=None)
    assert "bad set" in output and updates_in(workplace.folder / "run/checkpoint_last.pt") == 3


def test_a_signal_without_a_checkpoint_says_so(workplace: Workplace) -> None:
    output = workplace.run(plug_in(workplace, SIGNAL), "checkpoint.no_save=true")
    assert "not saved: checkpoint.no_save is true" in output and "continues from there" not in output


def test_a_validation_that_a_signal_put_off_comes_first(workplace: Workplace) -> None:
    workplace.run(plug_in(workplace, SIGNAL), "optimization.max_update=4")
    assert updates_in(workplace.folder / "run/checkpoint_last.pt") == 4 and workplace.rows("valid") == []
    workplace.run("optimization.max_update=4")
    assert [row["num_updates"] for row in workplace.rows("valid")] == [4]
    assert (workplace.folder / "run/checkpoint_best.pt").exists()


def test_the_time_limit_ends_all_processes_at_one_update(workplace: Workplace) -> None:
    """Their clocks differ: the first one's limit is over an update earlier."""
    output = workplace.run(plug_in(workplace, SKEW), "optimization.stop_time_hours=1", "distributed_training.distributed_world_size=2")
    assert "optimization.stop_time_hours is 1" in output and "done training" in output
    assert 3 < updates_in(workplace.folder / "run/checkpoint_last.pt") < 12


def test_broken_validation_files_are_named(workplace: Workplace, tmp_path: Path) -> None:
    broken = tmp_path / "broken.flac"
    broken.write_bytes((workplace.corpus / "audio/26.flac").read_bytes()[:3000])
    frames = soundfile.info(workplace.corpus / "audio/26.flac").frames
    (tmp_path / "train.tsv").write_text((workplace.corpus / "train.tsv").read_text())
    (tmp_path / "valid.tsv").write_text((workplace.corpus / "valid.tsv").read_text() + f"{broken}\t{frames}\n")
    few = [f"task.data={tmp_path}", "optimization.max_update=2"]
    assert "broken.flac cannot be decoded" in workplace.run(*few, "task.max_quarantined_share=0.5")
    output = workplace.run(*few, "checkpoint.save_dir=strict", status=None)
    assert "1 of 6 files cannot be decoded" in output and "max_tokens_valid" not in output


def test_the_module_train_is_no_command(workplace: Workplace) -> None:
    done = subprocess.run([sys.executable, "-m", "fairseq_cli.train", "data"], env=workplace.environment(), capture_output=True, text=True)
    assert done.returncode != 0 and "fairseq-hydra-train" in done.stderr


def test_a_log_file_that_is_a_folder_is_named(workplace: Workplace, tmp_path: Path) -> None:
    output = workplace.run(f"common.log_file={tmp_path}", status=None)
    assert f"common.log_file is {tmp_path}" in output and "Traceback" not in output
