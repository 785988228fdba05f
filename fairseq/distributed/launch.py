"""Start the processes of a run, or join those that a launcher started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from fairseq import device as device_layer
from fairseq.dataclass.base import ConfigError
from fairseq.distributed import signals, utils
from fairseq.distributed.place import Place, adopt_launcher, cards_of_a_node, lonely_task, place_from_environment
from fairseq.distributed.roll_call import RollCall

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
        if (odd := lonely_task()) is not None:
            logger.warning(odd)
        return []
    strict = device_layer.of_config(cfg.common).world_size_is_strict
    found = cards_of_a_node(training, place, list(cfg.optimization.update_freq), strict)
    if found is not None and strict:
        return [found]
    if found is not None and place.rank == 0:
        logger.warning(found)
    return []


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> int:
    """Run `main(cfg)` in every process of the run: those a launcher started, those spawned here, or this one alone.

    Under a launcher WORLD_SIZE and RANK count. Without one, `distributed_training.distributed_world_size` processes are
    spawned; this one then touches no device, hands them the signals that it gets, and ends as they do.

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
    return _spawn(cfg, main, world_size, kwargs)


# -- processes that are spawned here -----------------------------------------------------------------------------------


def _spawn(cfg: DictConfig, main: Callable[..., Any], world_size: int, kwargs: dict[str, Any]) -> int:
    listener = _listen(cfg.distributed_training.distributed_port)
    os.environ.setdefault("MASTER_ADDR", "localhost")  # vendors' libraries read both
    os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    logger.info("starting %d processes", world_size)
    told = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with signals.held_back():  # until the children that a signal is passed on to are known
        arguments = (cfg, main, world_size, kwargs, told, listener)
        children = torch.multiprocessing.spawn(_spawned, args=arguments, nprocs=world_size, join=False)
        passing = _PassingOn(children.processes)
        before = {
            number: signal.signal(number, passing)
            for number in signals.ENDING
            if signal.getsignal(number) is not signal.SIG_IGN
        }
    listener.close()
    try:
        while not children.join():
            pass
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException):
        said = _all_of(told)
        for error in said:  # whatever a process that was left alone said first
            if isinstance(error, ConfigError):
                raise error from None
        if said:
            return said[0]
        if passing.first is None:
            raise
        logger.warning("stopped by %s before the first update: nothing to save.", signal.Signals(passing.first).name)
        sys.exit(128 + passing.first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return next(iter(_all_of(told)), 0)


def _all_of(told: Any) -> list[Any]:
    """What the processes have said: errors, and the first one's exit status where it is not 0."""
    said = []
    while not told.empty():
        said.append(told.get())
    return said


def _listen(port: int) -> socket.socket:
    """Where spawned processes find each other: a socket that only this machine can reach.

    Raises:
        ConfigError: `distributed_training.distributed_port` is in use.
    """
    try:
        return socket.create_server(("127.0.0.1", max(0, port)))
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) else "ports are 1 to 65535"
        advice = "Set another port, or -1 to take a free one."
        raise ConfigError(
            [f"distributed_training.distributed_port is {port}: cannot listen there ({why}). {advice}"]
        ) from error


def _spawned(
    local_rank: int,
    cfg: DictConfig,
    main: Callable[..., Any],
    world_size: int,
    kwargs: dict[str, Any],
    told: Any,
    listener: socket.socket,
) -> None:
    # until there is something to save, Ctrl-C ends this process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
    # submitit's: SLURM sends it to all processes, and the parent passes on what it means
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        status = _run(cfg, main, Place(local_rank, local_rank, world_size, world_size), kwargs, listener)
    except ConfigError as error:  # the first process tells it, once, without a traceback
        told.put(error)
        sys.exit(1)
    if status:  # told rather than exited with: torch would end the others, which may not be through
        told.put(status)


class _PassingOn:
    """The parent's handler: it passes signals on to the processes that train, which save and end. The second Ctrl-C
    ends all at once.
    """

    def __init__(self, processes: list[Any]) -> None:
        self.processes = processes
        self.first: int | None = None
        self._first_at = 0.0

    def __call__(self, number: int, frame: Any) -> None:
        if self.first is None:
            self.first, self._first_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first_at >= signals.AGAIN:
            for process in self.processes:
                process.kill()
            os._exit(128 + signal.SIGINT)
        # a terminal sends SIGINT to all processes; if it were passed on as it is, they would take it for the second one
        passed = signal.SIGTERM if number == signal.SIGINT else number
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, passed)


# -- one process of several --------------------------------------------------------------------------------------------


def _run(
    cfg: DictConfig,
    main: Callable[..., Any],
    place: Place,
    kwargs: dict[str, Any],
    listener: socket.socket | None = None,
) -> int:
    """Run `main` as the process of this place; returns its exit status.

    Args:
        listener: of spawned processes: the first one serves their store there. None: as torch's variables in the
            environment say.
    """
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
        try:
            return main(cfg, **kwargs) or 0
        except signals.WaitEnded as ended:
            return ended.status
    os.environ.update(place.variables())  # vendors' libraries read them when they are imported
    try:
        device = device_layer.select(cfg.common, place.local_rank)
    except ValueError as error:  # no such device here, or its software is missing
        raise ConfigError([str(error)]) from error
    timeout = timedelta(seconds=cfg.distributed_training.distributed_timeout)
    store = _store(place, listener, timeout)
    dist.init_process_group(
        device.collective_backend,
        store=dist.PrefixStore("run", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timeout,
    )
    utils.open_host_group(timeout)
    roll_call = RollCall(store, place.rank, place.world_size, cfg.distributed_training.distributed_timeout)
    roll_call.start()
    signals.set_stuck(roll_call.is_stuck)
    together = False
    try:
        status = main(cfg, **kwargs) or 0
        together = True
    except signals.WaitEnded as ended:  # this process has ended without the others
        status = ended.status
    except RuntimeError:
        if roll_call.missing():
            logger.error("%s", roll_call.describe())
        raise
    finally:
        signals.set_stuck(None)
        roll_call.close()
        utils.close_groups(together)
    return status


def _store(place: Place, listener: socket.socket | None, timeout: timedelta) -> dist.Store:
    """Where the processes of a run exchange small values: what torch.distributed begins with.

    Raises:
        ConfigError: the master's port is in use.
    """
    if listener is not None:
        port, is_first = listener.getsockname()[1], place.rank == 0
        if is_first:
            return dist.TCPStore("127.0.0.1", port, place.world_size, True, timeout, master_listen_fd=listener.detach())
        listener.close()
        return dist.TCPStore("127.0.0.1", port, place.world_size, False, timeout)
    try:
        store, _, _ = next(dist.distributed_c10d.rendezvous("env://", place.rank, place.world_size, timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        advice = "set another distributed_training.distributed_port, or the launcher's --master_port"
        raise ConfigError([f"port {os.environ['MASTER_PORT']} is in use on this machine: {advice}."]) from error
    return store


def be_quiet() -> None:
    """The master alone tells the story: of the other processes only log records from WARNING up are shown."""
    logging.getLogger().setLevel(logging.WARNING)
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")  # Python's, which would say the same on every process


def limit_threads(threads_per_process: int, local_processes: int) -> None:
    """Keep the processes of one machine from fighting over its cores: `threads_per_process`, or with 0 a fair share of
    them.

    Threads that the user asked for (OMP_NUM_THREADS) are never exceeded.
    """
    threads = threads_per_process or max(1, device_layer.base.available_cores() // local_processes)
    if "OMP_NUM_THREADS" in os.environ and not threads_per_process:
        threads = min(threads, torch.get_num_threads())
    torch.set_num_threads(threads)
