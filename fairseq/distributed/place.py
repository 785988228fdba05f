"""Where a process stands among the others of a run, as its launcher tells it."""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

from fairseq.dataclass.configs import DistributedTrainingConfig

# what every rank of one mpirun on one machine can agree on without talking; the one that Gaudi's software takes too
_MPI_PORT = 12345


class Place(NamedTuple):
    """Where a process stands among the others."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int

    @property
    def is_first_of_its_node(self) -> bool:
        return self.local_rank == 0

    def variables(self) -> dict[str, str]:
        """torch's environment variables for this place, as every launcher of torch's sets them."""
        names = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local_rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_WORLD_SIZE": self.local_world_size,
        }
        return {name: str(value) for name, value in names.items()}


def place_from_environment() -> Place | None:
    """What torchrun, `torch.distributed.launch` or `adopt_launcher` wrote into the environment; None where nobody
    started this process.

    Raises:
        ValueError: the variables are there in part.
    """
    if not _is_launched():
        return None
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment says this is one process of several, but lacks {', '.join(missing)}: start with torchrun"
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    local_rank = int(os.environ.get("LOCAL_RANK", rank % local_world_size))
    return Place(rank, local_rank, world_size, local_world_size)


def _is_launched() -> bool:
    """Whether torch's variables say so. Gaudi's software leaves a WORLD_SIZE of 1 behind in a process that is alone."""
    return "RANK" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1"


def adopt_launcher(distributed_port: int = -1) -> None:
    """Say in torch's variables what mpirun or srun said in theirs; what is there in torch's words already stays.

    srun's tasks are ranks with a `distributed_training.distributed_port`, as in fairseq, or where submitit started
    them. Without either, each task would train all of it alone, into the same folder: that is refused. A batch script
    that starts this command itself is one process, though SLURM_NTASKS says for how many tasks it asked.

    Args:
        distributed_port: `distributed_training.distributed_port`, the master's; -1 where it is not set.
    Raises:
        ValueError: several machines, and nothing says which one is the master; several tasks of srun, and no port.
    """
    if _is_launched():
        return
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        _adopt_mpi(distributed_port)
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        if distributed_port > 0:
            _adopt_slurm(distributed_port)
        elif os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            _adopt_slurm(_port_of_job(int(os.environ["SLURM_JOB_ID"])))
        elif tasks_of_srun() > 1:
            raise ValueError(
                f"srun started {tasks_of_srun()} tasks, and distributed_training.distributed_port is not set: each "
                "task would train alone. Set "
                f"distributed_training.distributed_port={_port_of_job(int(os.environ.get('SLURM_JOB_ID', 0)))} to "
                "train together, or start one task: srun --ntasks=1 --ntasks-per-node=1."
            )


def lonely_task() -> str | None:
    """What is odd about a process that is alone inside a SLURM job of several tasks; None if nothing is."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if tasks <= 1 or "SLURM_PROCID" not in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
        return None
    return (
        f"SLURM_NTASKS is {tasks}, but this process was not started by srun: it trains without the other tasks. To "
        "train with all of them, start it with srun and set distributed_training.distributed_port."
    )


def tasks_of_srun() -> int:
    """Tasks that srun started together with this process; 1 in a batch script. A task other than the first one is
    not alone, either.
    """
    alone = "1" if os.environ.get("SLURM_PROCID", "0") == "0" else os.environ["SLURM_NTASKS"]
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", alone))


def _adopt_mpi(distributed_port: int) -> None:
    place = Place(
        *(int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE"))
    )
    if place.local_world_size < place.world_size and "MASTER_ADDR" not in os.environ:
        raise ValueError(
            "mpirun started processes on several machines, but MASTER_ADDR does not say where rank 0 is: "
            f"mpirun -x MASTER_ADDR=host -x MASTER_PORT={_MPI_PORT} ..."
        )
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", str(distributed_port if distributed_port > 0 else _MPI_PORT))
    os.environ.update(place.variables())


def _port_of_job(job_id: int) -> int:
    """What all tasks of a job agree on without talking, and two jobs on one machine hardly do; below the ports that
    Linux gives away.
    """
    return 15000 + job_id % 15000


def _adopt_slurm(distributed_port: int) -> None:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ["SLURM_NTASKS"]))
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", 1)))
    hosts = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST", "localhost"))
    place = Place(
        int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_LOCALID", 0)), tasks, max(1, tasks // nodes)
    )
    os.environ.setdefault("MASTER_ADDR", first_host(hosts))
    os.environ.setdefault("MASTER_PORT", str(distributed_port))
    os.environ.update(place.variables())


def first_host(node_list: str) -> str:
    """The first name of SLURM's compact list of hosts: `node[03-05,9]-ib,other` begins with node03-ib."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", node_list)
    return "".join(part or "" for part in match.groups()) if match else node_list


def cards_of_a_node(
    training: DistributedTrainingConfig, place: Place, update_freq: list[int], strict: bool
) -> str | None:
    """What is odd about `distributed_training.distributed_world_size` under a launcher, whose processes count; None if
    nothing is.

    On HPU the key means the cards of one node, as in Gaudi's recipe, and another number is an error: someone counted
    the updates' size with it. On other devices fairseq never looked at the key under a launcher, and stock YAMLs with
    their 64 or 128 are started by torchrun on what there is: told where the updates come out at another size than the
    YAML's, and let through.

    Args:
        training: `distributed_training`.
        update_freq: `optimization.update_freq`.
        strict: the rule of HPU.
    """
    asked, cards, nodes = (
        training.distributed_world_size,
        place.local_world_size,
        place.world_size // place.local_world_size,
    )
    if strict:
        if asked == cards:
            return None
        total = ", not of all nodes" if asked == place.world_size else ""
        return (
            f"distributed_training.distributed_world_size is {asked}, but the launcher started {cards} processes on "
            f"this node ({nodes} node(s)). The key means the cards of one node{total}: set "
            f"distributed_training.distributed_world_size={cards}, or start --nproc_per_node={asked}. "
            "distributed_world_size x update_freq x nodes is to be 64 for the base recipe."
        )
    if asked in (1, cards, place.world_size):  # 1: nobody said anything
        return None
    frequencies = [max(1, math.ceil(number * asked / place.world_size)) for number in update_freq]
    return (
        f"distributed_training.distributed_world_size is {asked}, but the launcher started {place.world_size} "
        "processes, and these count. For updates of the size that the config means: "
        f"optimization.update_freq={str(frequencies).replace(' ', '')}"
    )
