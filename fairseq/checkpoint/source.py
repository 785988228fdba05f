"""Which checkpoint a run starts from, and what is taken from it."""

from __future__ import annotations

import ast
import logging
import os
from typing import Any, NamedTuple

from fairseq.checkpoint import io, kinds, retention
from fairseq.dataclass.configs import CheckpointConfig

logger = logging.getLogger(__name__)

DEFAULT_RESTORE_FILE = "checkpoint_last.pt"


class Resets(NamedTuple):
    """What is started anew though there is a checkpoint."""

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
    """Where a run begins."""

    path: str | None  # None: random weights
    own: bool  # a checkpoint of this very run: its config must be the command's
    resets: Resets
    note: str  # why this one, for the log
    started_from: str | None = None  # to be remembered, so that the same command typed again continues
    continues: bool = False  # the folder's last checkpoint: what the run wrote up to there stays


def find(cfg: CheckpointConfig) -> Source:
    """The checkpoint that the config group `checkpoint` asks for.

    Raises:
        ValueError: settings that exclude each other, a named file that does not exist, or only damaged checkpoints in
            `save_dir`.
    """
    resets = Resets(cfg.reset_optimizer, cfg.reset_lr_scheduler, cfg.reset_meters, cfg.reset_dataloader)
    if cfg.finetune_from_model is not None and any(resets):
        raise ValueError(
            "checkpoint.finetune_from_model takes the weights only, so it cannot be set together with "
            "checkpoint.reset_optimizer, reset_lr_scheduler, reset_meters or reset_dataloader."
        )
    if cfg.restore_file != DEFAULT_RESTORE_FILE:
        if cfg.finetune_from_model is not None:
            raise ValueError(
                "checkpoint.finetune_from_model and checkpoint.restore_file are both set: give one of them."
            )
        return _named(cfg, resets)
    own = _own(cfg)
    if own is not None:
        return Source(own, True, resets, "", continues=not resets.optimizer)
    if cfg.continue_once is not None:
        path = _existing(cfg.continue_once, "checkpoint.continue_once")
        return Source(path, False, resets, "as checkpoint.continue_once asks", os.path.realpath(path))
    if cfg.finetune_from_model is not None:
        path = _existing(cfg.finetune_from_model, "checkpoint.finetune_from_model")
        return Source(path, False, ALL, "as checkpoint.finetune_from_model asks", os.path.realpath(path))
    return Source(None, True, resets, _why_none(cfg))


def _own(cfg: CheckpointConfig) -> str | None:
    """This run's last sound checkpoint, or None where it has not written any."""
    last = os.path.join(cfg.save_dir, retention.last_name(cfg))
    # to start at update 0 would replace the link and hide the run it stands for
    if os.path.islink(last) and not os.path.exists(last):
        raise ValueError(
            f"{last} cannot be continued: {kinds.missing(last)}. Mount that disk or put the file back; or remove "
            "the link to start anew."
        )
    if not os.path.exists(last) and not cfg.no_last_checkpoints:
        return None
    path, bad = io.newest_good(cfg.save_dir, last, cfg.checkpoint_suffix)
    for damaged, reason in bad:
        logger.error(f"the checkpoint {damaged} is damaged and not used: {reason}")
    if path is None and bad:
        raise ValueError(
            f"{cfg.save_dir} holds only damaged checkpoints: {', '.join(damaged for damaged, _ in bad)}. Move them "
            "away to start from random weights, or give another one by checkpoint.restore_file."
        )
    if bad:
        logger.warning(f"continuing from the newest sound checkpoint, {path}")
    return path


def _named(cfg: CheckpointConfig, resets: Resets) -> Source:
    """A restore_file that is not the default: in save_dir if it lies there, else a path of its own."""
    inside = os.path.join(cfg.save_dir, cfg.restore_file)
    path = inside if os.path.isfile(inside) else cfg.restore_file
    if not os.path.isfile(path):
        links = [f" ({name}: {kinds.missing(name)})" for name in (inside, cfg.restore_file) if os.path.islink(name)]
        raise ValueError(
            f"checkpoint.restore_file is {cfg.restore_file}: there is no such file, neither as {inside} nor by "
            f"itself{''.join(links[:1])}."
        )
    begun_from = os.path.realpath(path)
    last = _own(cfg)
    if last is not None and io.peek(last).extra_state.get("run_record", {}).get("started_from") == begun_from:
        note = (
            f"the run that began from {path} goes on; its checkpoint.reset_* settings applied then. Remove "
            f"{last} to begin again"
        )
        return Source(last, True, Resets(), note, continues=True)
    own = os.path.dirname(begun_from) == os.path.realpath(cfg.save_dir)
    return Source(path, own, resets, "as checkpoint.restore_file asks", begun_from)


def _existing(path: str, key: str) -> str:
    if not os.path.isfile(path):
        raise ValueError(f"{key} is {path}: {kinds.missing(path)}.")
    return path


def _why_none(cfg: CheckpointConfig) -> str:
    name = retention.last_name(cfg)
    others = [os.path.basename(path) for path in retention.checkpoint_paths(cfg.save_dir, r"checkpoint.*\.pt")]
    if not others:
        return f"no checkpoint in {cfg.save_dir}: starting at update 0"
    return (
        f"no {name} in {cfg.save_dir}: starting at update 0. It holds {', '.join(sorted(others))}; "
        "checkpoint.restore_file=<name> continues from one of them"
    )


def optimizer_overrides(cfg: CheckpointConfig) -> dict[str, Any]:
    """`checkpoint.optimizer_overrides`, a Python dict written as text.

    Raises:
        ValueError: it is none.
    """
    try:
        overrides = ast.literal_eval(cfg.optimizer_overrides)
    except (ValueError, SyntaxError):
        overrides = None
    if not isinstance(overrides, dict):
        raise ValueError(
            f"checkpoint.optimizer_overrides is {cfg.optimizer_overrides!r}: it must be a Python dict like {{'eps': "
            f"1e-6}}."
        )
    return overrides
