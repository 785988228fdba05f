"""Names of the files that a save writes, and which older files to remove: fairseq's rules."""

from __future__ import annotations

import os
import re
from typing import Any, Optional

import numpy as np

from fairseq.dataclass.configs import CheckpointConfig

_NUMBER = r"(-?\d+\.?\d*)"


def checkpoint_paths(
    path: str | os.PathLike, pattern: str = r"checkpoint(\d+)\.pt", keep_match: bool = False
) -> list[Any]:
    """List the files in a folder whose whole name matches the pattern.

    Args:
        pattern: if it has a group, files are sorted by that number, largest first.
        keep_match: return (path, number) pairs instead of paths.
    """
    compiled = re.compile(pattern)
    if not os.path.isdir(path):
        return []
    entries = []
    for i, name in enumerate(sorted(os.listdir(path))):
        match = compiled.fullmatch(name)
        if match is not None:
            entries.append((float(match.group(1)) if match.groups() else float(i), name))
    found = [(os.path.join(path, name), number) for number, name in sorted(entries, reverse=True)]
    return found if keep_match else [file for file, _ in found]


def last_name(cfg: CheckpointConfig) -> str:
    return f"checkpoint_last{cfg.checkpoint_suffix}.pt"


def checkpoint_names(
    cfg: CheckpointConfig,
    epoch: int,
    updates: int,
    end_of_epoch: bool,
    val_loss: Optional[float],
    is_best: bool,
    stopping: bool = False,
) -> list[str]:
    """List the names of a save's files.

    The one to resume from is first, so a process that is killed between two files loses nothing.

    Args:
        cfg: the config group `checkpoint`.
        val_loss: the metric of the validation at this update, or None.
        is_best: no earlier value was better.
        stopping: the run ends here; if nothing else is due, the file is named by its update.
    """
    suffix = cfg.checkpoint_suffix
    by_updates = cfg.save_interval_updates > 0 and updates % cfg.save_interval_updates == 0
    by_epoch = end_of_epoch and not cfg.no_epoch_checkpoints and epoch % cfg.save_interval == 0
    wanted = {
        last_name(cfg): not cfg.no_last_checkpoints,
        f"checkpoint{epoch}{suffix}.pt": by_epoch,
        f"checkpoint_{epoch}_{updates}{suffix}.pt": by_updates,
        f"checkpoint_best{suffix}.pt": is_best,
    }
    if val_loss is not None and cfg.keep_best_checkpoints > 0 and _among_the_best(cfg, val_loss):
        wanted[_best_name(cfg, epoch, updates, val_loss)] = True
    names = [name for name, condition in wanted.items() if condition]
    # with no_last_checkpoints, not checkpoint_last.pt: no later save would replace it, and every run would load it
    return names or ([f"checkpoint_{epoch}_{updates}{suffix}.pt"] if stopping else [])


def _best_pattern(cfg: CheckpointConfig) -> str:
    return rf"checkpoint\.best_{re.escape(cfg.best_checkpoint_metric)}_{_NUMBER}{re.escape(cfg.checkpoint_suffix)}\.pt"


def _best_name(cfg: CheckpointConfig, epoch: int, updates: int, val_loss: float) -> str:
    # fairseq: a digit after the three decimals distinguishes equal values; here it is a function of the update
    digit = np.random.default_rng([epoch, updates]).integers(cfg.keep_best_checkpoints)
    return f"checkpoint.best_{cfg.best_checkpoint_metric}_{val_loss:.3f}{digit}{cfg.checkpoint_suffix}.pt"


def _kept_best(cfg: CheckpointConfig) -> list[tuple[str, float]]:
    """List (path, value) of the checkpoints kept as best, the best first."""
    kept = checkpoint_paths(cfg.save_dir, _best_pattern(cfg), keep_match=True)
    return kept if cfg.maximize_best_checkpoint_metric else kept[::-1]


def _among_the_best(cfg: CheckpointConfig, val_loss: float) -> bool:
    if not np.isfinite(val_loss):
        return False
    kept = _kept_best(cfg)
    if len(kept) < cfg.keep_best_checkpoints:
        return True
    worst = kept[-1][1]
    return val_loss >= worst if cfg.maximize_best_checkpoint_metric else val_loss <= worst


def outdated(cfg: CheckpointConfig) -> list[str]:
    """List the files in `save_dir` that the keep_* settings no longer keep after a save."""
    suffix = re.escape(cfg.checkpoint_suffix)
    gone: list[str] = []
    if cfg.keep_interval_updates > 0:
        by_updates = checkpoint_paths(cfg.save_dir, rf"checkpoint_\d+_(\d+){suffix}\.pt", keep_match=True)
        every = cfg.keep_interval_updates_pattern
        prunable = [path for path, updates in by_updates if every <= 0 or updates % every != 0]
        gone += prunable[cfg.keep_interval_updates :]
    if cfg.keep_last_epochs > 0:
        gone += checkpoint_paths(cfg.save_dir, rf"checkpoint(\d+){suffix}\.pt")[cfg.keep_last_epochs :]
    if cfg.keep_best_checkpoints > 0:
        gone += [path for path, _ in _kept_best(cfg)[cfg.keep_best_checkpoints :]]
    return gone
