"""`hydra.launcher` of dependency_submitit_slurm: what is asked of SLURM. Imports hydra only, which reads this file
whenever it starts.
"""

# no `from __future__ import annotations`: hydra runs this file before it is in sys.modules, where dataclasses look for
# what text means
from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore


@dataclass
class DependencySubmititConf:
    """Names and defaults of hydra's own `submitit_slurm`, so that YAMLs written for it go on; what differs is said
    beside the field.
    """

    _target_: str = "hydra_plugins.dependency_submitit_launcher.launcher.DependencySubmititLauncher"

    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"  # scripts, logs and pickles; on a disk that all nodes see
    name: str = "${hydra.job.name}"
    timeout_min: int = 60
    nodes: int = 1
    gpus_per_node: Optional[int] = None
    tasks_per_node: Optional[int] = None  # unset: gpus_per_node, that is a process for each device, or 1 without GPUs
    cpus_per_task: Optional[int] = None
    mem_gb: Optional[int] = None  # of each node
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
    # not in submitit_slurm: what these jobs wait for, as sbatch writes it: afterok:123:124
    dependency: Optional[str] = None

    signal_delay_s: int = 120  # a job is told this long before its time is over; it then saves
    max_num_timeout: int = 0  # how often a job whose time was over is queued again, to go on from its checkpoint
    array_parallelism: int = 256  # jobs of a sweep that may run at the same time
    setup: Optional[list[str]] = None  # lines of shell before the run
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch: {mail-type: END}


ConfigStore.instance().store(
    group="hydra/launcher",
    name="dependency_submitit_slurm",
    node=DependencySubmititConf,
    provider="dependency_submitit_launcher",
)
