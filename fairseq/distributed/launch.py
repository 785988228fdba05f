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
from fairseq.distributed import failures, progress, restarts, signals, utils
from fairseq.distributed.place import Place, adopt_launcher, cards_of_a_node, lonely_task, place_from_environment
from fairseq.distributed.watchdog import HUNG, Watchdog

logger = logging.getLogger(__name__)

# exit statuses other than 0 (done) and 1 (an error), with the numbers of sysexits.h
UNSAVED = 74  # EX_IOERR: the run finished or was stopped, and its last state could not be saved
# watchdog.HUNG (69): a process made no progress
_PIPE = 48000  # bytes of reports that fit into a pipe before the parent reads them
STOPPED = 75  # EX_TEMPFAIL: a signal stopped the run, and its state is saved: rerun the same command to resume


def problems_of_place(cfg: DictConfig) -> list[str]:
    """List the problems with how the run was started, after translating the variables of mpirun or srun.

    If `distributed_world_size` differs from the number of processes and the device allows it, rank 0 logs a warning.
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
    if training.max_restarts and place.rank == 0:
        logger.warning(
            "distributed_training.max_restarts=%d has no effect under a launcher. Use torchrun --max-restarts=%d",
            training.max_restarts,
            training.max_restarts,
        )
    return []


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> int:
    """Run `main(cfg)` in every process of the run: started by a launcher, spawned here, or this process alone.

    Under a launcher, WORLD_SIZE and RANK take precedence. Without one, `distributed_training.distributed_world_size`
    processes are spawned; this process then uses no device, forwards its signals to them, and exits as they do. With
    `distributed_training.max_restarts`, they are spawned again after the death of one of them.

    Returns:
        the exit status that rank 0's `main` returned (None is 0).
    Raises:
        ConfigError: a spawned process found a problem with the config or the data.
        RunFailed: one of several processes failed; the message is the cause, for the end of the log.
    """
    adopt_launcher(cfg.distributed_training.distributed_port)
    place = place_from_environment()
    if place is not None:
        restarts.begin(restarts.from_environment())
        return _run(cfg, main, place, kwargs)
    world_size, limit = max(1, cfg.distributed_training.distributed_world_size), cfg.distributed_training.max_restarts
    if world_size == 1 and limit == 0:
        return _run(cfg, main, Place(0, 0, 1, 1), kwargs)
    return restarts.until_done(lambda attempt: _spawn(cfg, main, world_size, kwargs, attempt), limit)


# -- processes that are spawned here -----------------------------------------------------------------------------------


def _spawn(
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
        status = _run(cfg, main, place, kwargs, port)
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


# -- one process of several --------------------------------------------------------------------------------------------


def _run(
    cfg: DictConfig,
    main: Callable[..., Any],
    place: Place,
    kwargs: dict[str, Any],
    port: int | None = None,
) -> int:
    """Run `main` as the process of this place; returns its exit status.

    Args:
        port: where the parent of spawned processes serves their store; None: use torch's environment variables.
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
    progress.start_over()
    if place.world_size == 1:
        return _run_alone(cfg, main, place, kwargs, spawned=port is not None)
    os.environ.update(place.variables())  # vendors' libraries read them at import
    try:
        device = device_layer.select(cfg.common, place.local_rank)
    except ValueError as error:  # the device or its software is missing
        raise ConfigError([str(error)]) from error
    timeout = timedelta(seconds=cfg.distributed_training.distributed_timeout)
    store, meeting = _store(place, port, timeout), None
    if port is None and restarts.outlives_processes():
        meeting = restarts.Meeting(store, place)
        store = dist.PrefixStore(meeting.join(timeout), store)
        restarts.begin(restarts.current._replace(cause=meeting.end_of_last_attempt()))
        os.environ[restarts.SESSION] = meeting.session()
    heartbeat = cfg.distributed_training.heartbeat_timeout
    watchdog = Watchdog(heartbeat, place.rank, place.local_rank, place.world_size, store)
    together, over = False, False
    try:
        dist.init_process_group(
            device.collective_backend,
            store=dist.PrefixStore("run", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
        )
        utils.open_host_group(timeout)
        watchdog.start()
        signals.set_stuck(watchdog.is_stuck)
        status = main(cfg, **kwargs) or 0
        # to torchrun, other statuses than 0 are failures, after which it would start the run again
        over = meeting is not None and utils.broadcast_object(status) not in (0, HUNG)
        together = True
        progress.doing("ending", waits=True)
    except signals.WaitEnded as ended:  # this process has ended without the others
        status = ended.status
    except Exception as error:
        if isinstance(error, RuntimeError) and watchdog.is_stuck():
            logger.error("%s", watchdog.explain())
        failure = failures.of_error(error, place)
        if meeting is not None:
            failure = meeting.explain(failure)
        if isinstance(error, ConfigError):
            raise
        raise failures.RunFailed(failure) from error
    finally:
        signals.set_stuck(None)
        if meeting is not None:
            meeting.report(None)
        if dist.is_initialized():
            utils.close_groups(together)  # watched, because processes wait for each other here
        watchdog.close()
    if over and place.is_first_of_its_node:
        restarts.end_torchrun("the run has ended")
    return status


def _run_alone(cfg: DictConfig, main: Callable[..., Any], place: Place, kwargs: dict[str, Any], spawned: bool) -> int:
    """Run `main` as the only process of a run; if another process started it, that one reports its errors."""
    watchdog = Watchdog(cfg.distributed_training.heartbeat_timeout)
    watchdog.start()
    try:
        status = main(cfg, **kwargs) or 0
    except signals.WaitEnded as ended:
        status = ended.status
    except ConfigError:
        raise
    except Exception as error:
        if spawned or failures.ERROR_FILE in os.environ:
            raise failures.RunFailed(failures.of_error(error, place)) from error
        raise
    finally:
        watchdog.close()
    if status not in (0, HUNG):
        restarts.end_torchrun("the run has ended")
    return status


def _store(place: Place, port: int | None, timeout: timedelta) -> dist.Store:
    """Open torch.distributed's store, through which the processes of a run exchange small values.

    Raises:
        ConfigError: the master's port is in use.
    """
    if port is not None:
        return dist.TCPStore("127.0.0.1", port, place.world_size, False, timeout)
    try:
        store, _, _ = next(dist.distributed_c10d.rendezvous("env://", place.rank, place.world_size, timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        advice = "Set another distributed_training.distributed_port, or the launcher's --master_port"
        raise ConfigError([f"port {os.environ['MASTER_PORT']} is in use on this machine. {advice}."]) from error
    return store


def be_quiet() -> None:
    """Log only from WARNING up: called on every rank but 0."""
    logging.getLogger().setLevel(logging.WARNING)
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")  # Python's warnings, which are the same on every rank


def limit_threads(threads_per_process: int, local_processes: int) -> None:
    """Set torch's threads to `threads_per_process`, or with 0 to this process's share of the machine's cores.

    With 0, OMP_NUM_THREADS is an upper limit.
    """
    threads = threads_per_process or max(1, device_layer.base.available_cores() // local_processes)
    if "OMP_NUM_THREADS" in os.environ and not threads_per_process:
        threads = min(threads, torch.get_num_threads())
    torch.set_num_threads(threads)
