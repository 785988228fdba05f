"""Two processes of a run: a parameter that differs, and a process that is stopped."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import torch

from fairseq.distributed.exit_status import HUNG
from tests.integration.conftest import Workplace

pytestmark = pytest.mark.process
TWO = ("distributed_training.distributed_world_size=2", "common.user_dir=plug_in")
# flips the lowest bit of one number, and prints this process
PLUG_IN = """
import os, torch
from fairseq.distributed import utils
from fairseq.training.trainer import Trainer
old = Trainer.train_step
def train_step(self, samples):
    old(self, samples)
    if self.get_num_updates() == 5 and utils.get_rank() == 1 and os.path.exists("flip"):
        self.unwrapped_model.encoder.layers[1].fc1.weight.data.view(torch.int32)[3, 3] ^= 1
    if self.get_num_updates() == 5:
        open(f"rank{utils.get_rank()}", "w").write(str(os.getpid()))
Trainer.train_step = train_step
"""


@pytest.fixture()
def pair(workplace: Workplace) -> Workplace:
    (workplace.folder / "plug_in").mkdir()
    (workplace.folder / "plug_in" / "__init__.py").write_text(PLUG_IN)
    return workplace


def test_a_flipped_bit_is_named_and_not_saved(pair: Workplace) -> None:
    (pair.folder / "flip").touch()
    process = pair.start(*TWO, "distributed_training.compare_ranks_interval=4")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    names = [line for line in output.splitlines() if "the processes hold different models" in line]
    assert len(names) == 1 and "Traceback" not in output, output
    assert "after update 6: ranks 0, 1 have different values of encoder.layers.1.fc1.weight, and none" in names[0]
    last = torch.load(pair.folder / "run" / "checkpoint_last.pt", weights_only=True)
    assert last["optimizer_history"][-1]["num_updates"] == 4, output
    rows = pair.rows()
    assert [row["num_updates"] for row in rows] == [2, 4, 6]
    assert all(0 <= row["rank_wait"] <= 100 and row["slowest_rank"] in (0, 1) for row in rows)


def test_a_stopped_rank_0_is_named_and_ends_the_run(pair: Workplace) -> None:
    # no first validation or save, which may take half an hour
    only_updates = ("dataset.disable_validation=true", "checkpoint.no_save=true", "optimization.max_update=1000000")
    process = pair.start(*TWO, "distributed_training.heartbeat_timeout=4", *only_updates)
    folder, deadline = pair.folder, time.monotonic() + 120
    while not all((folder / f"rank{rank}").exists() and (folder / f"rank{rank}").read_text() for rank in (0, 1)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    pids = [int((folder / f"rank{rank}").read_text()) for rank in (0, 1)]
    os.kill(pids[0], signal.SIGSTOP)
    while os.path.exists(f"/proc/{pids[1]}"):  # it names rank 0, and ends
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(pids[0], signal.SIGKILL)  # else the launcher does so after 30 seconds
    output, _ = process.communicate(timeout=120)
    assert process.returncode == HUNG, output
    named = re.findall(r"rank 1: .*rank 0 \(local rank 0, process (\d+) on \S+\) has not answered", output)
    assert set(named) == {str(pids[0])} and output.count("The run ends with status 69.") == 1, output
    assert re.search(r"state is T \(stopped\); (\w+) (of|after) update \d+", output), output
