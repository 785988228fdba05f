"""One process of a run: join the others, train, and leave."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from fairseq import device as device_layer
from fairseq.dataclass.base import ConfigError
from fairseq.distributed import failures, progress, restarts, signals, utils
from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.place import Place
from fairseq.distributed.watchdog import Watchdog

logger = logging.getLogger(__name__)


def run(
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
