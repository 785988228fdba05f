"""Where launchers say that a process stands, and what the config's count of cards means under them."""

from __future__ import annotations

import os

import pytest
from omegaconf import OmegaConf

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed.place import (
    Place,
    adopt_launcher,
    cards_of_a_node,
    first_host,
    lonely_task,
    place_from_environment,
)

PREFIXES = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "OMPI_", "SLURM_", "SUBMITIT_")


@pytest.fixture()
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher's variables, and none left behind by what the test calls."""
    before = dict(os.environ)
    monkeypatch.setattr(os, "environ", {name: value for name, value in before.items() if not name.startswith(PREFIXES)})
    return monkeypatch


def give(**variables: int | str) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})


def test_no_launcher(environment: pytest.MonkeyPatch) -> None:
    adopt_launcher(12345)
    assert place_from_environment() is None


def test_gaudis_software_counts_a_process_that_is_alone(environment: pytest.MonkeyPatch) -> None:
    give(WORLD_SIZE=1, MASTER_ADDR="localhost", MASTER_PORT=12345)  # what its import leaves behind
    assert place_from_environment() is None


def test_torchrun(environment: pytest.MonkeyPatch) -> None:
    give(RANK=11, WORLD_SIZE=16, LOCAL_RANK=3, LOCAL_WORLD_SIZE=8, MASTER_ADDR="a", MASTER_PORT=1)
    give(OMPI_COMM_WORLD_SIZE=4, SLURM_NTASKS=2, SLURM_PROCID=1)  # torch's own variables count first
    adopt_launcher(12345)
    assert place_from_environment() == Place(rank=11, local_rank=3, world_size=16, local_world_size=8)


def test_half_an_environment_is_an_error(environment: pytest.MonkeyPatch) -> None:
    give(WORLD_SIZE=2, RANK=0)
    with pytest.raises(ValueError, match="MASTER_ADDR, MASTER_PORT"):
        place_from_environment()


def test_mpirun(environment: pytest.MonkeyPatch) -> None:
    give(OMPI_COMM_WORLD_RANK=2, OMPI_COMM_WORLD_LOCAL_RANK=2, OMPI_COMM_WORLD_SIZE=8, OMPI_COMM_WORLD_LOCAL_SIZE=8)
    adopt_launcher()
    assert place_from_environment() == Place(2, 2, 8, 8)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("localhost", "12345")


def test_mpirun_over_machines_must_name_the_master(environment: pytest.MonkeyPatch) -> None:
    give(OMPI_COMM_WORLD_RANK=9, OMPI_COMM_WORLD_LOCAL_RANK=1, OMPI_COMM_WORLD_SIZE=16, OMPI_COMM_WORLD_LOCAL_SIZE=8)
    with pytest.raises(ValueError, match="mpirun -x MASTER_ADDR"):
        adopt_launcher()
    give(MASTER_ADDR="server1")
    adopt_launcher(4000)
    assert place_from_environment() == Place(9, 1, 16, 8) and os.environ["MASTER_PORT"] == "4000"


def test_srun_counts_where_the_port_says_so(environment: pytest.MonkeyPatch) -> None:
    give(SLURM_PROCID=9, SLURM_LOCALID=1, SLURM_NTASKS=16, SLURM_NNODES=2, SLURM_JOB_NODELIST="gaudi[03-04]")
    adopt_launcher(29500)
    assert place_from_environment() == Place(9, 1, 16, 8)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gaudi03", "29500")


@pytest.mark.parametrize("variables", [{"SLURM_PROCID": 1}, {"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 4}])
def test_tasks_of_srun_do_not_train_copies(environment: pytest.MonkeyPatch, variables: dict[str, int]) -> None:
    give(SLURM_NTASKS=4, SLURM_JOB_ID=77, **variables)
    with pytest.raises(ValueError, match="srun started 4 tasks.*set distributed_training.distributed_port=15077"):
        adopt_launcher()
    assert place_from_environment() is None


def test_one_process_in_a_job_of_several_tasks(environment: pytest.MonkeyPatch) -> None:
    """A batch script that does not use srun: one process, whatever the job asked for; and one task of srun inside
    it.
    """
    give(SLURM_NTASKS=4, SLURM_PROCID=0)
    adopt_launcher()
    assert place_from_environment() is None and "SLURM_NTASKS=4" in (lonely_task() or "")
    give(SLURM_STEP_NUM_TASKS=1)
    adopt_launcher()
    assert place_from_environment() is None and lonely_task() is None


def test_tasks_that_submitit_started_need_no_port(environment: pytest.MonkeyPatch) -> None:
    """The job's id gives one: the same for all tasks, another one for another job."""
    give(
        SLURM_PROCID=9,
        SLURM_LOCALID=1,
        SLURM_NTASKS=16,
        SLURM_NNODES=2,
        SLURM_JOB_NODELIST="gpu[03-04]",
        SLURM_JOB_ID=4711234,
    )
    give(SUBMITIT_EXECUTOR="slurm")
    adopt_launcher()
    assert place_from_environment() == Place(9, 1, 16, 8)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu03", str(15000 + 4711234 % 15000))


@pytest.mark.parametrize(
    ("compact", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("node[03-05,9]-ib,other", "node03-ib"),
        ("n[1,3]", "n1"),
        ("r2n[10-11],r3n[1-2]", "r2n10"),
    ],
)
def test_first_host(compact: str, first: str) -> None:
    assert first_host(compact) == first


def told(asked: int, cards: int, nodes: int, strict: bool, update_freq: tuple[int, ...] = (1,)) -> str | None:
    training = OmegaConf.structured(DistributedTrainingConfig(distributed_world_size=asked))
    return cards_of_a_node(training, Place(0, 0, cards * nodes, cards), list(update_freq), strict)


def test_on_hpu_the_key_means_the_cards_of_one_node() -> None:
    assert told(8, 8, 2, strict=True) is None
    assert told(1, 1, 1, strict=True) is None
    for asked in (1, 4, 16):
        assert f"={asked}, but the launcher started 8 processes" in (told(asked, 8, 2, strict=True) or "")
        assert "distributed_world_size=8" in (told(asked, 8, 2, strict=True) or "")
    assert "not of all nodes" in (told(16, 8, 2, strict=True) or "")


def test_elsewhere_stock_yamls_start_on_what_there_is_and_are_told_the_size_of_updates() -> None:
    for asked in (1, 8, 16):  # nobody said anything; a node's; all nodes'
        assert told(asked, 8, 2, strict=False) is None
    assert "optimization.update_freq=[4]" in (told(64, 8, 2, strict=False) or "")
    assert "optimization.update_freq=[16,32]" in (told(64, 8, 1, strict=False, update_freq=(2, 4)) or "")
