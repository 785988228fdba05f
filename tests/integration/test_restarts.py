"""Runs that restart after the death of a process, and runs that resume with another number of processes."""

from __future__ import annotations

import pytest
import torch

from tests.integration.conftest import Workplace
from tests.integration.test_training import assert_equal_runs, load

TWO = "distributed_training.distributed_world_size=2"
# the first attempt loses rank 1; in the second one rank 0 raises an error, if PLANT is set
DEATHS = """import os, signal
from fairseq.distributed import restarts
from fairseq.training.trainer import Trainer
old = Trainer.train_step
def step(self, samples):
    place = restarts.current.number, self.data_parallel_rank, self.get_num_updates()
    if place == (0, 1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    if place == (1, 0, 5) and os.environ.get("PLANT"):
        raise RuntimeError("planted")
    old(self, samples)
Trainer.train_step = step
"""
SHORT = ["optimization.max_update=6", "dataset.disable_validation=true", "checkpoint.save_interval_updates=2"]


def deadly(workplace: Workplace) -> str:
    folder = workplace.folder / "deaths"
    folder.mkdir()
    (folder / "__init__.py").write_text(DEATHS)
    return f"common.user_dir={folder}"


@pytest.mark.process
def test_after_a_death_all_spawned_processes_restart_and_the_end_is_equal(workplace: Workplace) -> None:
    workplace.run(TWO, *SHORT, "checkpoint.save_dir=unbroken")
    plug_in = deadly(workplace)
    output = workplace.run(TWO, *SHORT, plug_in, "distributed_training.max_restarts=1")
    assert "rank 1 (local rank 1 on " in output and "was killed by SIGKILL" in output
    assert "restart 1 of 1, after rank 1 " in output and ": continues from update " in output
    assert_equal_runs(*(workplace.folder / name / "checkpoint_last.pt" for name in ("unbroken", "run")))


@pytest.mark.process
def test_torchrun_restarts_and_prints_one_cause_at_the_end(workplace: Workplace) -> None:
    workplace.variables = {"PLANT": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    output = workplace.run(*SHORT, deadly(workplace), launcher=launcher, status=1)
    assert "restart 1 of 1, after rank 1 " in output and "was killed: continues from update " in output
    # torchrun's own, and the one that it prints as the cause
    assert output.count("Traceback") == 2 and "RuntimeError: planted" in output.partition("Root Cause")[2]
    assert load(workplace.folder / "run/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] >= 4


@pytest.mark.process
def test_another_number_of_processes_keeps_the_updates(workplace: Workplace) -> None:
    def settings(updates: int) -> list[str]:
        until = [f"optimization.max_update={updates}", "lr_scheduler.total_num_update=20"]
        return [*until, "optimization.update_freq=[2]", "dataset.disable_validation=true", "ema.store_ema=true"]

    workplace.run(*settings(7), "checkpoint.save_dir=unbroken")
    assert "keep_update_size" not in workplace.run(*settings(2))
    output = workplace.run(TWO, *settings(5))
    assert "Updates keep their 2 batches: optimization.update_freq=1 instead of 2" in output
    saved = load(workplace.folder / "run/checkpoint_last.pt")
    assert saved["cfg"]["optimization"]["update_freq"] == [1]
    assert saved["extra_state"]["run_record"]["configured_update_freq"] == [2]
    assert "keep_update_size" not in workplace.run(*settings(7))
    one, other = (load(workplace.folder / name / "checkpoint_last.pt") for name in ("unbroken", "run"))
    for name, value in one["model"].items():
        assert torch.allclose(value, other["model"][name], rtol=1e-5, atol=1e-7), name
    for name, value in one["extra_state"]["ema"].items():
        assert torch.allclose(value, other["extra_state"]["ema"][name], rtol=1e-5, atol=1e-7), name
    assert one["optimizer_history"] == other["optimizer_history"]
    places = [dict(state["extra_state"]["train_iterator"], iterations_in_epoch=0) for state in (one, other)]
    assert places[0] == places[1]
