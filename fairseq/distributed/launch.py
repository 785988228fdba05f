"""Start the processes of a run, or join those that a launcher started."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from fairseq import device as device_layer
from fairseq.dataclass.base import ConfigError
from fairseq.distributed import utils
from fairseq.distributed.place import Place, adopt_launcher, cards_of_a_node, place_from_environment

logger = logging.getLogger(__name__)

# exit statuses beside 0 (done) and 1 (an error), with the numbers of sysexits.h
UNSAVED = 74  # EX_IOERR: the run came to its end, or was stopped, and its last state could not be saved
STOPPED = 75  # EX_TEMPFAIL: a signal ended the run before its time, and its state is saved: the same command continues


def problems_of_place(cfg: DictConfig) -> list[str]:
    """What stops the run in how it was started, beside the config's own problems; takes over what mpirun or srun said.

    Where `distributed_world_size` only differs from what a launcher started, and may, it is a warning of the master.
    """
    training = cfg.distributed_training
    try:
        adopt_launcher(training.distributed_port)
        place = place_from_environment()
    except ValueError as error:
        return [str(error)]
    if place is None:
        return []
    strict = device_layer.asked_for(cfg.common) == "hpu"
    found = cards_of_a_node(training, place, list(cfg.optimization.update_freq), strict)
    if found is not None and strict:
        return [found]
    if found is not None and place.rank == 0:
        logger.warning(found)
    return []


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> int:
    """Run `main(cfg)` in every process of the run: those a launcher started, those spawned here, or this one alone.

    Under a launcher WORLD_SIZE and RANK count. Without one, `distributed_training.distributed_world_size` processes are spawned; this one
    then touches no device, hands them the signals that it gets, and ends as they do.

    Returns:
        the exit status that the first process's `main` returned (None is 0).
    Raises:
        ConfigError: what a spawned process found wrong with config or data.
    """
    adopt_launcher(cfg.distributed_training.distributed_port)
    place = place_from_environment()
    if place is not None:
        return _run(cfg, main, place, kwargs)
    world_size = cfg.distributed_training.distributed_world_size
    if world_size <= 1:
        return _run(cfg, main, Place(0, 0, 1, 1), kwargs)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ["MASTER_PORT"] = str(_free_port(cfg.distributed_training.distributed_port))
    return _spawn(cfg, main, world_size, kwargs)


def _spawn(cfg: DictConfig, main: Callable[..., Any], world_size: int, kwargs: dict[str, Any]) -> int:
    told = torch.multiprocessing.get_context("spawn").SimpleQueue()
    children = torch.multiprocessing.spawn(_spawned, args=(cfg, main, world_size, kwargs, told), nprocs=world_size, join=False)
    with _signals_passed_on(children.pids):
        try:
            while not children.join():
                pass
        except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException):
            for said in _all_of(told):  # whatever a process that was left alone said first
                if isinstance(said, ConfigError):
                    raise said from None
            raise
    return next(iter(_all_of(told)), 0)


def _all_of(told: Any) -> list[Any]:
    """What the processes have said: errors, and the first one's exit status where it is not 0."""
    said = []
    while not told.empty():
        said.append(told.get())
    return said


def _spawned(local_rank: int, cfg: DictConfig, main: Callable[..., Any], world_size: int, kwargs: dict[str, Any], told: Any) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit's: SLURM sends it to all processes, and the parent passes on what it means
    try:
        status = _run(cfg, main, Place(local_rank, local_rank, world_size, world_size), kwargs)
    except ConfigError as error:  # the first process tells it, once, without a traceback
        told.put(error)
        sys.exit(1)
    if status:  # told rather than exited with: torch would end the others, which may not be through
        told.put(status)


@contextmanager
def _signals_passed_on(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Within, SIGTERM and SIGUSR1 go to these processes, which save and end."""

    def pass_on(number: int, frame: Any) -> None:
        for pid in pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # it has just ended
                continue

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(cfg: DictConfig, main: Callable[..., Any], place: Place, kwargs: dict[str, Any]) -> int:
    with open_dict(cfg):
        training = cfg.distributed_training
        training.distributed_world_size = place.world_size
        training.distributed_rank = place.rank
        training.device_id = place.local_rank
        training.nprocs_per_node = place.local_world_size
    limit_threads(cfg.common.threads_per_process, place.local_world_size)
    if place.rank != 0:
        be_quiet()
    if place.world_size == 1:
        return main(cfg, **kwargs) or 0
    os.environ.update(place.variables())  # vendors' libraries read them when they are imported
    try:
        device = device_layer.select(cfg.common, place.local_rank)
    except ValueError as error:  # no such device here, or its software is missing
        raise ConfigError([str(error)]) from error
    dist.init_process_group(device.collective_backend, init_method="env://", rank=place.rank, world_size=place.world_size)
    utils.open_host_group()
    together = False
    try:
        status = main(cfg, **kwargs) or 0
        together = True
    finally:
        utils.close_groups(together)
    return status


def be_quiet() -> None:
    """The master alone tells the story: of the other processes only log records from WARNING up are shown."""
    logging.getLogger().setLevel(logging.WARNING)
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")  # Python's, which would say the same on every process


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
