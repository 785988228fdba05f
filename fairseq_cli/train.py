"""Train a model: `main(cfg)` is what `fairseq-hydra-train` runs in every process, once the config is composed."""

from __future__ import annotations

import logging
import sys

from omegaconf import DictConfig

from fairseq import checkpoint_utils
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import CommonConfig
from fairseq.distributed import signals
from fairseq.distributed import utils as distributed
from fairseq.logging import destinations
from fairseq.training.description import describe
from fairseq.training.loop import Run, Stopped, prepare

__all__ = ["Run", "Stopped", "describe", "main", "prepare", "prepare_and_train", "set_up_logging"]


def main(cfg: DictConfig) -> int:
    """Train until the config's end, a signal, or an error; a run that ended early continues with the same command.

    Returns:
        the exit status: 0, or one of those that `fairseq.distributed.launch` defines.
    Raises:
        ConfigError: all problems of the config, together; a problem of the data or of the checkpoint to continue from;
            another run in `checkpoint.save_dir`.
        WaitEnded: a signal ended this process alone, while it waited for a batch or for another process; what can be
            saved is saved.
    """
    set_up_logging(cfg.common)
    with checkpoint_utils.save_dir_held(cfg.checkpoint, writes=distributed.is_master()):
        return prepare_and_train(cfg)


def prepare_and_train(cfg: DictConfig) -> int:
    """`main`, in a folder that no other run writes to."""
    try:
        run = prepare(cfg)
    except ConfigError:
        raise
    except ValueError as error:  # the user's mistake, told without a traceback; HYDRA_FULL_ERROR=1 shows it
        raise ConfigError([str(error)]) from error
    with signals.caught(run.trainer.stopping.wish):
        return run.train()


def set_up_logging(common: CommonConfig) -> None:
    """Log lines of fairseq's form on standard output, and in `common.log_file` too; processes other than the first
    only warn.
    """
    handlers: list[logging.Handler] = [destinations.StandardOutput()]
    if common.log_file is not None and distributed.is_master():
        try:
            handlers.append(file := destinations.LogFile(common.log_file))
            file.begin()
        except OSError as error:
            raise ConfigError(
                [f"common.log_file is {common.log_file}: cannot write there ({error.strerror or error})."]
            ) from error
    if common.tensorboard_logdir is not None and distributed.is_master():
        problem = destinations.problem_of_folder(common.tensorboard_logdir)
        if problem is not None:
            raise ConfigError(
                [f"common.tensorboard_logdir is {common.tensorboard_logdir}: cannot write there ({problem})."]
            )
    if distributed.is_master():
        destinations.send_lines_to(*handlers)
    else:
        destinations.send_lines_to(*handlers, level="WARNING", who=f"rank {distributed.get_rank()}: ")


if __name__ == "__main__":
    sys.exit(
        "fairseq_cli.train has no command line of its own: fairseq-hydra-train task.data=FOLDER --config-name ... "
        "trains."
    )
