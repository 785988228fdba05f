"""Start the processes of a run, or join those that a launcher started."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from fairseq import device as device_layer
from fairseq.distributed import member, restarts, spawning
from fairseq.distributed.place import Place, adopt_launcher, cards_of_a_node, lonely_task, place_from_environment

logger = logging.getLogger(__name__)


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
        return member.run(cfg, main, place, kwargs)
    world_size, limit = max(1, cfg.distributed_training.distributed_world_size), cfg.distributed_training.max_restarts
    if world_size == 1 and limit == 0:
        return member.run(cfg, main, Place(0, 0, 1, 1), kwargs)
    return restarts.until_done(lambda attempt: spawning.spawn(cfg, main, world_size, kwargs, attempt), limit)
