"""Start the processes of a run, or join those that a launcher started."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from fairseq import device as device_layer

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a process stands among the others."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int


def place_from_environment() -> Place | None:
    """What torchrun or `torch.distributed.launch` wrote into the environment; None where neither started this process.

    Raises:
        ValueError: the variables are there in part.
    """
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        return None
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"the environment says this is one process of several, but lacks {', '.join(missing)}: start with torchrun")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    local_rank = int(os.environ.get("LOCAL_RANK", rank % local_world_size))
    return Place(rank, local_rank, world_size, local_world_size)


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> None:
    """Run `main(cfg)` in every process of the run: those a launcher started, those spawned here, or this one alone.

    Under a launcher WORLD_SIZE and RANK count. Without one, `distributed_training.distributed_world_size` processes are spawned.
    """
    place = place_from_environment()
    if place is not None:
        _run(cfg, main, place, kwargs)
        return
    world_size = cfg.distributed_training.distributed_world_size
    if world_size <= 1:
        _run(cfg, main, Place(0, 0, 1, 1), kwargs)
        return
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ["MASTER_PORT"] = str(_free_port(cfg.distributed_training.distributed_port))
    torch.multiprocessing.spawn(_spawned, args=(cfg, main, world_size, kwargs), nprocs=world_size, join=True)


def _spawned(local_rank: int, cfg: DictConfig, main: Callable[..., Any], world_size: int, kwargs: dict[str, Any]) -> None:
    _run(cfg, main, Place(local_rank, local_rank, world_size, world_size), kwargs)


def _run(cfg: DictConfig, main: Callable[..., Any], place: Place, kwargs: dict[str, Any]) -> None:
    with open_dict(cfg):
        training = cfg.distributed_training
        training.distributed_world_size = place.world_size
        training.distributed_rank = place.rank
        training.device_id = place.local_rank
        training.nprocs_per_node = place.local_world_size
    limit_threads(cfg.common.threads_per_process, place.local_world_size)
    if place.rank != 0:
        logging.getLogger().setLevel(logging.WARNING)  # the master alone tells the story
    if place.world_size == 1:
        main(cfg, **kwargs)
        return
    device = device_layer.select(cfg.common, place.local_rank)
    dist.init_process_group(device.collective_backend, init_method="env://", rank=place.rank, world_size=place.world_size)
    try:
        main(cfg, **kwargs)
    finally:
        dist.destroy_process_group()


def limit_threads(threads_per_process: int, local_processes: int) -> None:
    """Keep the processes of one machine from fighting over its cores: `threads_per_process`, or with 0 a fair share of them.

    Threads that the user asked for (OMP_NUM_THREADS) are never exceeded.
    """
    threads = threads_per_process or max(1, device_layer.base.available_cores() // local_processes)
    if "OMP_NUM_THREADS" in os.environ and not threads_per_process:
        threads = min(threads, torch.get_num_threads())
    torch.set_num_threads(threads)


def _free_port(wanted: int) -> int:
    if wanted > 0:
        return wanted
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
