"""Train a model: `fairseq-hydra-train` runs `main(cfg)` in every process once the config is composed."""

from __future__ import annotations

import logging
import sys

from omegaconf import DictConfig

from fairseq import checkpoint_utils
from fairseq.checkpoint import remote
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import CommonConfig
from fairseq.distributed import signals
from fairseq.distributed import utils as distributed
from fairseq.logging import destinations, sinks
from fairseq.training.description import describe
from fairseq.training.loop import Run, Stopped, prepare
from fairseq.training.measuring import Measure

logger = logging.getLogger("fairseq_cli.train")

__all__ = ["Run", "Stopped", "describe", "main", "prepare", "prepare_and_train", "set_up_logging"]


def main(cfg: DictConfig) -> int:
    """Train until the config's limit, a signal, or an error; the same command resumes a run that ended early.

    Returns:
        The exit status: 0, or one of those in `fairseq.distributed.launch`.
    Raises:
        ConfigError: all problems of the config, together; a problem with the data or with the checkpoint to resume
            from; another run in `checkpoint.save_dir`.
        WaitEnded: a signal ended only this process, while it waited for a batch or for another process; it saves what
            it can.
    """
    set_up_logging(cfg.common)
    if distributed.is_master() and (problems := sinks.problems(cfg.common)):
        raise ConfigError(problems)
    remote.stage(cfg.checkpoint)
    if cfg.checkpoint.store is not None:
        logger.info(remote.describe(cfg.checkpoint))
    with checkpoint_utils.save_dir_held(cfg.checkpoint, writes=distributed.is_master()):
        return prepare_and_train(cfg)


def prepare_and_train(cfg: DictConfig) -> int:
    """Do the work of `main`, in a folder that no other run writes to."""
    try:
        run = prepare(cfg, _probe_of)
    except ConfigError:
        raise
    except ValueError as error:  # the user's mistake: reported without a traceback, unless HYDRA_FULL_ERROR=1
        raise ConfigError([str(error)]) from error
    with signals.caught(run.trainer.stopping.wish):
        return run.train()


def _probe_of(cfg: DictConfig) -> Measure | None:
    """Open the probe that `dataset.probe_data` asks for."""
    if cfg.dataset.probe_data is None:
        return None
    from fairseq.evaluation.probe.in_training import TrainingProbe  # imports the packages for inference

    return TrainingProbe.open(cfg)


def set_up_logging(common: CommonConfig) -> None:
    """Log in fairseq's format to standard output and `common.log_file`; only rank 0 logs below WARNING."""
    handlers: list[logging.Handler] = [destinations.StandardOutput()]
    if common.log_file is not None and distributed.is_master():
        try:
            handlers.append(file := destinations.LogFile(common.log_file))
            file.begin()
        except OSError as error:
            raise ConfigError(
                [f"common.log_file is {common.log_file}: cannot write to it ({error.strerror or error})."]
            ) from error
    if distributed.is_master():
        destinations.send_lines_to(*handlers)
    else:
        destinations.send_lines_to(*handlers, level="WARNING", who=f"rank {distributed.get_rank()}: ")


if __name__ == "__main__":
    sys.exit("fairseq_cli.train is not a command. Use fairseq-hydra-train task.data=FOLDER --config-name ...")
