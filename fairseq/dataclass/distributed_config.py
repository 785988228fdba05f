"""Groups `distributed_training` and `bmuf`."""

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

import torch
from omegaconf import II

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import (
    DDP_BACKEND_CHOICES,
    DDP_COMM_HOOK_CHOICES,
    PIPELINE_CHECKPOINT_CHOICES,
    ZERO_SHARDING_CHOICES,
)
from fairseq.dataclass.findings import Finding, wrong


@dataclass
class DistributedTrainingConfig(FairseqDataclass):
    """How many processes train together, and how they find each other and communicate."""

    distributed_world_size: int = field(
        default=1,
        metadata={
            "help": (
                "processes on this machine, one per device; a launcher's WORLD_SIZE takes precedence, and on HPU the "
                "two must agree"
            ),
            "at_least": 1,
        },
    )
    distributed_rank: Optional[int] = field(default=0, metadata={"help": "rank of the first process on this machine"})
    distributed_port: int = field(
        default=-1, metadata={"help": "port of rank 0 (-1: a free one); srun's ranks are only used if this is set"}
    )
    distributed_timeout: int = field(
        default=1800,
        metadata={
            "help": "seconds that processes wait for each other in a collective before the run fails",
            "at_least": 1,
        },
    )
    heartbeat_timeout: int = field(
        default=-1,
        metadata={
            "help": (
                "seconds without progress after which the run names the process it waits for and ends with status 69 "
                "(-1: a minute, or 10 times the slowest such step; 0: never); a step that may compile has 30 minutes"
            ),
            "at_least": -1,
        },
    )
    compare_ranks_interval: int = field(
        default=1000,
        metadata={
            "help": (
                "updates between comparisons of all processes' parameters, at a log line and before a save; a "
                "difference ends the run (0: never)"
            ),
            "at_least": 0,
        },
    )
    max_restarts: int = field(
        default=0,
        metadata={
            "help": (
                "restarts from the last checkpoint after the death of a process; a launcher has its own number: "
                "torchrun --max-restarts"
            ),
            "at_least": 0,
        },
    )
    keep_update_size: bool = field(
        default=True,
        metadata={
            "help": (
                "if a run resumes with another number of processes, change optimization.update_freq so that updates "
                "keep their number of batches"
            )
        },
    )
    device_id: int = field(
        default=0, metadata={"help": "device of this process; a launcher's LOCAL_RANK takes precedence"}
    )
    ddp_backend: DDP_BACKEND_CHOICES = field(
        default="pytorch_ddp",
        metadata={
            "help": (
                "how processes share the model: pytorch_ddp (also called c10d, no_c10d and legacy_ddp) is torch's "
                "DistributedDataParallel; flat exchanges gradients once per update, in a few large buffers; "
                "fully_sharded gives each process a shard of the weights, gradients and optimizer state"
            )
        },
    )
    ddp_comm_hook: DDP_COMM_HOOK_CHOICES = field(
        default="none",
        metadata={"help": "dtype in which pytorch_ddp and flat send gradients: none (theirs, fp32), fp16 or bf16"},
    )
    no_reshard_after_forward: bool = field(
        default=False,
        metadata={"help": "fully_sharded: keep gathered weights until the backward pass: more memory, less exchange"},
    )
    cpu_offload: bool = field(
        default=False,
        metadata={"help": "fully_sharded: keep the shards on the host, and update them there"},
    )
    bucket_cap_mb: int = field(default=25, metadata={"help": "DDP: megabytes of gradients per all-reduce"})
    find_unused_parameters: bool = field(
        default=False, metadata={"help": "DDP: search for parameters that received no gradient"}
    )
    gradient_as_bucket_view: bool = field(
        default=False,
        metadata={"help": "DDP: make gradients views of the communication buffers, which saves their memory"},
    )
    broadcast_buffers: bool = field(
        default=False, metadata={"help": "DDP: copy rank 0's buffers before each forward pass"}
    )
    nprocs_per_node: int = field(default=1, metadata={"help": "processes on each machine"})
    fp16: bool = II("common.fp16")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")

    # not offered or without effect: fairseq/dataclass/not_offered.py says what to use instead
    distributed_num_procs: Optional[int] = 1
    distributed_backend: str = "nccl"
    fix_batches_to_gpus: bool = False
    fast_stat_sync: bool = False
    distributed_no_spawn: bool = False
    distributed_init_method: Optional[str] = None
    slowmo_momentum: Optional[float] = None
    slowmo_base_algorithm: str = "localsgd"
    localsgd_frequency: int = 3
    pipeline_model_parallel: bool = False
    pipeline_balance: Optional[str] = None
    pipeline_devices: Optional[str] = None
    pipeline_chunks: Optional[int] = 0
    pipeline_encoder_balance: Optional[str] = None
    pipeline_encoder_devices: Optional[str] = None
    pipeline_decoder_balance: Optional[str] = None
    pipeline_decoder_devices: Optional[str] = None
    pipeline_checkpoint: PIPELINE_CHECKPOINT_CHOICES = "never"
    zero_sharding: ZERO_SHARDING_CHOICES = "none"
    tpu: bool = II("common.tpu")
    fp32_reduce_scatter: bool = False
    use_sharded_state: bool = False
    not_fsdp_flatten_parameters: bool = False

    def check(self) -> Iterator[Finding]:
        sharded = self.ddp_backend == "fully_sharded"
        if sharded and torch.__version__ < "2.6":
            yield wrong(
                "distributed_training.ddp_backend is fully_sharded, which requires torch 2.6 or later, but this is "
                f"torch {torch.__version__}. Update torch, or set ddp_backend=pytorch_ddp."
            )
        if sharded and self.ddp_comm_hook != "none":
            yield wrong(
                f"distributed_training.ddp_comm_hook is {self.ddp_comm_hook}, but ddp_backend=fully_sharded always "
                "exchanges gradients in fp32. Set ddp_comm_hook=none."
            )
        for name in ("no_reshard_after_forward", "cpu_offload"):
            if getattr(self, name) and not sharded:
                yield wrong(
                    f"distributed_training.{name} is true, but it applies only to ddp_backend=fully_sharded. Set "
                    f"{name}=false, or ddp_backend=fully_sharded."
                )


@dataclass
class FairseqBMUFConfig(FairseqDataclass):
    """Blockwise model update filtering: not offered; the group exists because fairseq's checkpoints carry it."""

    block_lr: float = 1
    block_momentum: float = 0.875
    global_sync_iter: int = 50
    warmup_iterations: int = 500
    use_nbm: bool = False
    average_sync: bool = False
    distributed_world_size: int = II("distributed_training.distributed_world_size")
