"""The ranks and world sizes of a process, read from its launcher's environment variables."""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

from fairseq.dataclass.configs import DistributedTrainingConfig

# a port that all ranks of one mpirun on one machine know without an exchange; Gaudi's software uses it too
_MPI_PORT = 12345


class Place(NamedTuple):
    """The rank and world size of a process, in the run and on its node."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int

    @property
    def is_first_of_its_node(self) -> bool:
        return self.local_rank == 0

    def variables(self) -> dict[str, str]:
        """Return torch's environment variables for this place, as torch's launchers set them."""
        names = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local_rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_WORLD_SIZE": self.local_world_size,
        }
        return {name: str(value) for name, value in names.items()}


def place_from_environment() -> Place | None:
    """Read the environment that torchrun, `torch.distributed.launch` or `adopt_launcher` set; None without a launcher.

    Raises:
        ValueError: some of the variables are missing.
    """
    if not _is_launched():
        return None
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            "RANK or WORLD_SIZE says that this is one process of several, but these variables are not set: "
            f"{', '.join(missing)}. Start the run with torchrun."
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    local_rank = int(os.environ.get("LOCAL_RANK", rank % local_world_size))
    return Place(rank, local_rank, world_size, local_world_size)


def _is_launched() -> bool:
    """Whether torch's variables are set; WORLD_SIZE=1, which Gaudi's software sets in a single process, is ignored."""
    return "RANK" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1"


def adopt_launcher(distributed_port: int = -1) -> None:
    """Translate the variables of mpirun or srun to torch's, unless torch's are set.

    srun's tasks are ranks if `distributed_training.distributed_port` is set, as in fairseq, or if submitit started
    them. Otherwise each task would train the whole run alone, into the same folder, which is an error. A batch script
    that runs this command without srun is one process, although SLURM_NTASKS is the number of tasks it requested.

    Args:
        distributed_port: `distributed_training.distributed_port`, the master's; -1 if it is not set.
    Raises:
        ValueError: several machines without MASTER_ADDR, or several tasks of srun without a port.
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
                f"srun started {tasks_of_srun()} tasks, but distributed_training.distributed_port is not set, so each "
                "task would train alone. To train together, set "
                f"distributed_training.distributed_port={_port_of_job(int(os.environ.get('SLURM_JOB_ID', 0)))}; or "
                "start one task: srun --ntasks=1 --ntasks-per-node=1."
            )


def lonely_task() -> str | None:
    """Return a warning for a single process inside a SLURM job of several tasks, else None."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if tasks <= 1 or "SLURM_PROCID" not in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
        return None
    return (
        f"SLURM_NTASKS={tasks}, but srun did not start this process, so it trains alone. To train with all tasks, "
        "start it with srun and set distributed_training.distributed_port."
    )


def tasks_of_srun() -> int:
    """Count the tasks that srun started together with this process; 1 in a batch script, whose SLURM_PROCID is 0."""
    alone = "1" if os.environ.get("SLURM_PROCID", "0") == "0" else os.environ["SLURM_NTASKS"]
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", alone))


def _adopt_mpi(distributed_port: int) -> None:
    place = Place(
        *(int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE"))
    )
    if place.local_world_size < place.world_size and "MASTER_ADDR" not in os.environ:
        raise ValueError(
            "mpirun started processes on several machines, but MASTER_ADDR, the host of rank 0, is not set. Use "
            f"mpirun -x MASTER_ADDR=host -x MASTER_PORT={_MPI_PORT} ..."
        )
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", str(distributed_port if distributed_port > 0 else _MPI_PORT))
    os.environ.update(place.variables())


def _port_of_job(job_id: int) -> int:
    """Derive a port from the job's id: known to all tasks without an exchange, and below Linux's ephemeral ports."""
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
    """Return the first name of SLURM's compact list of hosts: node03-ib for `node[03-05,9]-ib,other`."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", node_list)
    return "".join(part or "" for part in match.groups()) if match else node_list


def cards_of_a_node(
    training: DistributedTrainingConfig, place: Place, update_freq: list[int], strict: bool
) -> str | None:
    """Compare `distributed_training.distributed_world_size` with the processes of a launcher, which take precedence.

    On HPU, the key is the number of cards of one node, as in Gaudi's recipe, and a different number is an error, since
    the size of an update would be wrong. On other devices, fairseq ignores the key under a launcher, and stock YAMLs
    with 64 or 128 run on fewer GPUs; a different size of an update is a warning.

    Args:
        training: `distributed_training`.
        place: this process's place.
        update_freq: `optimization.update_freq`.
        strict: apply HPU's rule.
    Returns:
        the problem, or None.
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
            f"distributed_training.distributed_world_size={asked}, but the launcher started {cards} processes on this "
            f"node (nodes: {nodes}). The key must equal the cards of one node{total}. Set "
            f"distributed_training.distributed_world_size={cards}, or start --nproc_per_node={asked}. For the base "
            "recipe, distributed_world_size x update_freq x nodes must equal 64."
        )
    if asked in (1, cards, place.world_size):  # 1: the default
        return None
    frequencies = [max(1, math.ceil(number * asked / place.world_size)) for number in update_freq]
    return (
        f"distributed_training.distributed_world_size={asked}, but the launcher started {place.world_size} processes, "
        "which take precedence. For updates of the config's size, set "
        f"optimization.update_freq={str(frequencies).replace(' ', '')}"
    )
