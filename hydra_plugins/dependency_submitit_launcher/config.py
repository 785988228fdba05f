"""Config group `hydra.launcher` of dependency_submitit_slurm: what to request from SLURM.

Hydra reads this file whenever it starts, so it imports nothing but hydra.
"""

# no `from __future__ import annotations`: hydra runs this file before it is in sys.modules, where dataclasses resolve
# string annotations
from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore


@dataclass
class DependencySubmititConf:
    """Options with names and defaults of hydra's `submitit_slurm`, so its YAMLs work; comments mark differences."""

    _target_: str = "hydra_plugins.dependency_submitit_launcher.launcher.DependencySubmititLauncher"

    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"  # scripts, logs and pickles; on a disk that all nodes see
    name: str = "${hydra.job.name}"
    timeout_min: int = 60
    nodes: int = 1
    gpus_per_node: Optional[int] = None
    tasks_per_node: Optional[int] = None  # unset: gpus_per_node (one process per device), or 1 without GPUs
    cpus_per_task: Optional[int] = None
    mem_gb: Optional[int] = None  # per node
    stderr_to_stdout: bool = False

    partition: Optional[str] = None
    qos: Optional[str] = None
    account: Optional[str] = None
    comment: Optional[str] = None
    constraint: Optional[str] = None
    exclude: Optional[str] = None
    gres: Optional[str] = None
    cpus_per_gpu: Optional[int] = None
    gpus_per_task: Optional[int] = None
    mem_per_gpu: Optional[str] = None
    mem_per_cpu: Optional[str] = None
    # not in submitit_slurm: jobs to wait for, in the form of sbatch: afterok:123:124
    dependency: Optional[str] = None

    signal_delay_s: int = 120  # a job gets a signal this long before its time limit, and saves
    max_num_timeout: int = 0  # how often a job that reached its time limit is requeued, to resume from its checkpoint
    array_parallelism: int = 256  # jobs of a sweep that run at the same time, at most
    setup: Optional[list[str]] = None  # shell commands before the run
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch: {mail-type: END}


ConfigStore.instance().store(
    group="hydra/launcher",
    name="dependency_submitit_slurm",
    node=DependencySubmititConf,
    provider="dependency_submitit_launcher",
)
