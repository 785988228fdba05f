"""Choose the checkpoint that a run starts from, and what is loaded from it."""

from __future__ import annotations

import ast
import logging
import os
from typing import Any, NamedTuple

from fairseq.checkpoint import io, kinds, retention
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.stores import is_url

logger = logging.getLogger(__name__)

DEFAULT_RESTORE_FILE = "checkpoint_last.pt"


class Resets(NamedTuple):
    """The parts of a checkpoint that are not loaded (`checkpoint.reset_*`)."""

    optimizer: bool = False
    lr_scheduler: bool = False
    meters: bool = False
    dataloader: bool = False

    def names(self) -> list[str]:
        return [
            name.replace("lr_scheduler", "learning rate schedule") for name, value in self._asdict().items() if value
        ]


ALL = Resets(True, True, True, True)


class Source(NamedTuple):
    """The checkpoint that a run starts from."""

    path: str | None  # None: random weights
    own: bool  # written by this run: its config must match the command's
    resets: Resets
    note: str  # the setting that selected it, for the log
    started_from: str | None = None  # recorded, so that rerunning the same command resumes
    continues: bool = False  # the folder's last checkpoint: output up to its update is kept


def find(cfg: CheckpointConfig) -> Source:
    """Find the checkpoint that the config group `checkpoint` asks for.

    Raises:
        ValueError: settings are mutually exclusive, a named file does not exist, or `save_dir` holds only damaged
            checkpoints.
    """
    resets = Resets(cfg.reset_optimizer, cfg.reset_lr_scheduler, cfg.reset_meters, cfg.reset_dataloader)
    if cfg.finetune_from_model is not None and any(resets):
        raise ValueError(
            "checkpoint.finetune_from_model loads only the weights, so it cannot be combined with "
            "checkpoint.reset_optimizer, reset_lr_scheduler, reset_meters or reset_dataloader. Remove the resets."
        )
    if cfg.restore_file != DEFAULT_RESTORE_FILE:
        if cfg.finetune_from_model is not None:
            raise ValueError(
                "checkpoint.finetune_from_model and checkpoint.restore_file are both set. Set only one of them."
            )
        return _named(cfg, resets)
    own = _own(cfg)
    if own is not None:
        return Source(own, True, resets, "", continues=not resets.optimizer)
    if cfg.continue_once is not None:
        path = _existing(cfg.continue_once, "checkpoint.continue_once")
        return Source(path, False, resets, "from checkpoint.continue_once", _identity(path))
    if cfg.finetune_from_model is not None:
        path = _existing(cfg.finetune_from_model, "checkpoint.finetune_from_model")
        return Source(path, False, ALL, "from checkpoint.finetune_from_model", _identity(path))
    return Source(None, True, resets, _why_none(cfg))


def _own(cfg: CheckpointConfig) -> str | None:
    """Find this run's last intact checkpoint; None if it has not written any."""
    last = os.path.join(cfg.save_dir, retention.last_name(cfg))
    # starting at update 0 would replace the link and hide the run that it points to
    if os.path.islink(last) and not io.forms(last):
        raise ValueError(
            f"Cannot resume from {last}: {kinds.missing(last)}. Mount that disk or restore the file; or remove the "
            "link to start at update 0."
        )
    if not io.forms(last) and not cfg.no_last_checkpoints:
        return None
    path, bad = io.newest_good(cfg.save_dir, last, cfg.checkpoint_suffix)
    for damaged, reason in bad:
        logger.error(f"skipping the damaged checkpoint {damaged}: {reason}")
    if path is None and bad:
        raise ValueError(
            f"{cfg.save_dir} holds only damaged checkpoints: {', '.join(damaged for damaged, _ in bad)}. Move them "
            "away to start from random weights, or set checkpoint.restore_file to another checkpoint."
        )
    if bad:
        logger.warning(f"resuming from the newest intact checkpoint: {path}")
    return path


def _named(cfg: CheckpointConfig, resets: Resets) -> Source:
    """Find a restore_file other than the default: in save_dir if it exists there, else as a path."""
    inside = cfg.restore_file if is_url(cfg.restore_file) else os.path.join(cfg.save_dir, cfg.restore_file)
    path = inside if kinds.is_checkpoint(inside) else cfg.restore_file
    if not kinds.is_checkpoint(path):
        links = [f" ({name}: {kinds.missing(name)})" for name in (inside, cfg.restore_file) if os.path.islink(name)]
        raise ValueError(
            f"checkpoint.restore_file={cfg.restore_file}: there is no such file, neither {inside} nor "
            f"{cfg.restore_file}{''.join(links[:1])}."
        )
    begun_from = _identity(path)
    last = _own(cfg)
    if last is not None and io.peek(last).extra_state.get("run_record", {}).get("started_from") == begun_from:
        note = (
            f"resuming the run that started from {path}; checkpoint.reset_* applied at its start. Remove {last} to "
            "start over"
        )
        return Source(last, True, Resets(), note, continues=True)
    own = os.path.dirname(begun_from) == os.path.realpath(cfg.save_dir)
    return Source(path, own, resets, "from checkpoint.restore_file", begun_from)


def _identity(path: str) -> str:
    """Return the name of a checkpoint that does not depend on the current folder."""
    return path if is_url(path) else os.path.realpath(path)


def _existing(path: str, key: str) -> str:
    if not kinds.is_checkpoint(path):
        raise ValueError(f"{key}={path}: {kinds.missing(path)}.")
    return path


def _why_none(cfg: CheckpointConfig) -> str:
    name = retention.last_name(cfg)
    others = [
        os.path.basename(path) for path in retention.checkpoint_paths(cfg.save_dir, rf"checkpoint.*{retention.ENDINGS}")
    ]
    if not others:
        return f"no checkpoint in {cfg.save_dir}: starting at update 0"
    return (
        f"no {name} in {cfg.save_dir}: starting at update 0. The folder holds {', '.join(sorted(others))}; to resume "
        "from one of them, set checkpoint.restore_file=<name>"
    )


def optimizer_overrides(cfg: CheckpointConfig) -> dict[str, Any]:
    """Parse `checkpoint.optimizer_overrides`, a Python dict written as text.

    Raises:
        ValueError: it is not a dict.
    """
    try:
        overrides = ast.literal_eval(cfg.optimizer_overrides)
    except (ValueError, SyntaxError):
        overrides = None
    if not isinstance(overrides, dict):
        raise ValueError(
            f"checkpoint.optimizer_overrides is {cfg.optimizer_overrides!r}: it must be a Python dict, such as "
            "{'eps': 1e-6}."
        )
    return overrides
