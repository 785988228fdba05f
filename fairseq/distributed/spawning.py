"""Start the processes of a run on this machine, without a launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from fairseq.dataclass.base import ConfigError
from fairseq.distributed import failures, member, restarts, signals
from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.place import Place

logger = logging.getLogger(__name__)

_PIPE = 48000  # bytes of reports that fit into a pipe before the parent reads them


def spawn(
    cfg: DictConfig, main: Callable[..., Any], world_size: int, kwargs: dict[str, Any], attempt: restarts.Attempt
) -> int:
    listener = _listen(cfg.distributed_training.distributed_port)
    os.environ.setdefault("MASTER_ADDR", "localhost")  # vendors' libraries read MASTER_ADDR and MASTER_PORT
    os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    logger.info("starting %d processes", world_size)
    reports = torch.multiprocessing.get_context("spawn").SimpleQueue()
    # served here, so that the watchdogs of the others can read it while rank 0 is stopped
    port = listener.getsockname()[1]
    timeout = timedelta(seconds=cfg.distributed_training.distributed_timeout)
    store = dist.TCPStore("127.0.0.1", port, None, True, timeout, False, master_listen_fd=listener.detach())
    with signals.held_back():  # until the children to forward signals to are known
        arguments = (cfg, main, world_size, kwargs, reports, port, attempt)
        children = torch.multiprocessing.spawn(_spawned, args=arguments, nprocs=world_size, join=False)
        assert children is not None, "spawn(join=False) returns the processes"
        passing = _PassingOn(children.processes)
        before = {
            number: signal.signal(number, passing)
            for number in signals.ENDING
            if signal.getsignal(number) is not signal.SIG_IGN
        }
    try:
        while not children.join():
            pass
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException) as error:
        status = _status_of_failed(children.processes, error.error_index, _all_of(reports), passing.first)
        if status is not None:
            return status
        assert passing.first is not None
        logger.warning("stopped by %s before the first update; nothing to save.", signal.Signals(passing.first).name)
        sys.exit(128 + passing.first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        del store
    said = _all_of(reports)
    if HUNG in said:
        return _status_of_failed(children.processes, 0, said, passing.first) or HUNG
    return next(iter(said), 0)


def _status_of_failed(processes: list[Any], first: int, said: list[Any], stopped_by: int | None) -> int | None:
    """Return the exit status of processes of which at least one failed; None if a signal ended them without a report.

    Args:
        first: rank of the process that ended first.
        said: the processes' reports.
        stopped_by: the signal that this process received and forwarded.
    Raises:
        ConfigError: a process reported it.
        RunFailed: a process failed, and no signal asked the run to end.
    """
    for error in said:  # a ConfigError takes precedence over the exit status of a process that it left waiting
        if isinstance(error, ConfigError):
            raise error from None
    statuses = [status for status in said if isinstance(status, int)]
    statuses += [process.exitcode for process in processes if process.exitcode == HUNG]
    if stopped_by is not None:
        return statuses[0] if statuses else None
    if HUNG in statuses:
        raise failures.RunFailed(failures.of_exit(first, processes[first].pid, HUNG))
    failed = [failure for failure in said if isinstance(failure, failures.Failure)]
    reported = {failure.rank for failure in failed}
    dead = [rank for rank, process in enumerate(processes) if process.exitcode not in (0, -signal.SIGTERM)]
    silent = [rank for rank in dead if rank not in reported]  # killed, or ended without a report
    if first in silent or (silent and all(failure.follows for failure in failed)):
        rank = first if first in silent else silent[0]
        raise failures.RunFailed(failures.of_exit(rank, processes[rank].pid, processes[rank].exitcode))
    cause = failures.cause(failed) if failed else failures.of_exit(first, processes[first].pid, -signal.SIGTERM)
    if statuses and cause.follows:  # a signal to one process stopped it, and the others lost their connection to it
        return statuses[0]
    raise failures.RunFailed(cause)


def _all_of(reports: Any) -> list[Any]:
    """Read the processes' reports: errors, failures, and rank 0's exit status if it is not 0."""
    said = []
    while not reports.empty():
        said.append(reports.get())
    return said


def _listen(port: int) -> socket.socket:
    """Open the socket through which spawned processes find each other; only this machine can reach it.

    Raises:
        ConfigError: `distributed_training.distributed_port` is in use.
    """
    try:
        return socket.create_server(("127.0.0.1", max(0, port)))
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "ports are 1 to 65535"
        advice = "Set another port, or -1 for a free one."
        raise ConfigError([f"distributed_training.distributed_port={port}: cannot listen ({why}). {advice}"]) from error


def _spawned(
    local_rank: int,
    cfg: DictConfig,
    main: Callable[..., Any],
    world_size: int,
    kwargs: dict[str, Any],
    reports: Any,
    port: int,
    attempt: restarts.Attempt,
) -> None:
    restarts.begin(attempt)
    # before training, Ctrl-C ends this process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
    # submitit's signal: SLURM sends it to all processes, and the parent handles it
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    place = Place(local_rank, local_rank, world_size, world_size)
    try:
        status = member.run(cfg, main, place, kwargs, port)
    except ConfigError as error:  # the parent reports it once, without a traceback
        reports.put(error)
        sys.exit(1)
    except Exception as error:
        failure = error.failure if isinstance(error, failures.RunFailed) else failures.of_error(error, place)
        reports.put(failure._replace(traceback=failure.traceback[-(_PIPE // world_size) :]))
        sys.exit(1)
    if status:  # reported, not exited with: torch would end the other processes, which may still be running
        reports.put(status)


class _PassingOn:
    """The parent's signal handler: forwards signals to the training processes; a second Ctrl-C kills them at once."""

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
        # a terminal sends SIGINT to all processes, so a forwarded SIGINT would look like a second Ctrl-C
        passed = signal.SIGTERM if number == signal.SIGINT else number
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):  # it has already ended
                os.kill(process.pid, passed)
