"""Names of the files that a save writes, and which older files to remove: fairseq's rules."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from typing import Any, Optional

import numpy as np

from fairseq.dataclass.configs import CheckpointConfig

_NUMBER = r"(-?\d+\.?\d*)"
FILE, FOLDER = ".pt", ".shards"  # the endings of a checkpoint in one file, and of a sharded one
ENDINGS = r"\.(?:pt|shards)"


def checkpoint_paths(
    path: str | os.PathLike, pattern: str = r"checkpoint(\d+)\.pt", keep_match: bool = False
) -> list[Any]:
    """List the files in a folder whose whole name matches the pattern.

    Args:
        pattern: if it has a group, files are sorted by that number, largest first.
        keep_match: return (path, number) pairs instead of paths.
    """
    found = [(os.path.join(path, name), number) for name, number in _matching(_names_in(path), pattern)]
    return found if keep_match else [file for file, _ in found]


def _names_in(folder: str | os.PathLike) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _matching(names: Iterable[str], pattern: str) -> list[tuple[str, float]]:
    """Return (name, number) of the names that match, as `checkpoint_paths` orders them."""
    compiled = re.compile(pattern)
    entries = []
    for i, name in enumerate(sorted(names)):
        match = compiled.fullmatch(name)
        if match is not None:
            entries.append((float(match.group(1)) if match.groups() else float(i), name))
    return [(name, number) for number, name in sorted(entries, reverse=True)]


def last_name(cfg: CheckpointConfig, ending: str = FILE) -> str:
    return f"checkpoint_last{cfg.checkpoint_suffix}{ending}"


def best_name(cfg: CheckpointConfig, ending: str = FILE) -> str:
    return f"checkpoint_best{cfg.checkpoint_suffix}{ending}"


def checkpoint_names(
    cfg: CheckpointConfig,
    epoch: int,
    updates: int,
    end_of_epoch: bool,
    val_loss: Optional[float],
    is_best: bool,
    stopping: bool = False,
    ending: str = FILE,
    elsewhere: Collection[str] = (),
) -> list[str]:
    """List the names of a save's files.

    The one to resume from is first, so a process that is killed between two files loses nothing.

    Args:
        cfg: the config group `checkpoint`.
        val_loss: the metric of the validation at this update, or None.
        is_best: no earlier value was better.
        stopping: the run ends here; if nothing else is due, the file is named by its update.
        ending: FILE or FOLDER.
        elsewhere: names of the run's checkpoints that are not in `save_dir`, but in a store.
    """
    suffix = f"{cfg.checkpoint_suffix}{ending}"
    by_updates = cfg.save_interval_updates > 0 and updates % cfg.save_interval_updates == 0
    by_epoch = end_of_epoch and not cfg.no_epoch_checkpoints and epoch % cfg.save_interval == 0
    wanted = {
        last_name(cfg, ending): not cfg.no_last_checkpoints,
        f"checkpoint{epoch}{suffix}": by_epoch,
        f"checkpoint_{epoch}_{updates}{suffix}": by_updates,
        best_name(cfg, ending): is_best,
    }
    if val_loss is not None and cfg.keep_best_checkpoints > 0 and _among_the_best(cfg, val_loss, elsewhere):
        wanted[_among_the_best_name(cfg, epoch, updates, val_loss) + suffix] = True
    names = [name for name, condition in wanted.items() if condition]
    # with no_last_checkpoints, not checkpoint_last.pt: no later save would replace it, and every run would load it
    return names or ([f"checkpoint_{epoch}_{updates}{suffix}"] if stopping else [])


def _best_pattern(cfg: CheckpointConfig) -> str:
    metric, suffix = re.escape(cfg.best_checkpoint_metric), re.escape(cfg.checkpoint_suffix)
    return rf"checkpoint\.best_{metric}_{_NUMBER}{suffix}{ENDINGS}"


def _among_the_best_name(cfg: CheckpointConfig, epoch: int, updates: int, val_loss: float) -> str:
    # fairseq: a digit after the three decimals distinguishes equal values; here it is a function of the update
    digit = np.random.default_rng([epoch, updates]).integers(cfg.keep_best_checkpoints)
    return f"checkpoint.best_{cfg.best_checkpoint_metric}_{val_loss:.3f}{digit}"


def _kept_best(cfg: CheckpointConfig, names: Iterable[str]) -> list[tuple[str, float]]:
    """List (name, value) of the checkpoints kept as best, the best first."""
    kept = _matching(names, _best_pattern(cfg))
    return kept if cfg.maximize_best_checkpoint_metric else kept[::-1]


def _among_the_best(cfg: CheckpointConfig, val_loss: float, elsewhere: Collection[str]) -> bool:
    if not np.isfinite(val_loss):
        return False
    kept = _kept_best(cfg, {*_names_in(cfg.save_dir), *elsewhere})
    values = list(dict.fromkeys(value for _, value in kept))
    if len(values) < cfg.keep_best_checkpoints:
        return True
    worst = values[-1]
    return val_loss >= worst if cfg.maximize_best_checkpoint_metric else val_loss <= worst


def other_form(name: str) -> str:
    """Return the name of the same checkpoint as a folder if this is a file, and as a file if it is a folder."""
    stem, ending = name.removesuffix(FILE).removesuffix(FOLDER), FILE if name.endswith(FOLDER) else FOLDER
    return stem + ending


def outdated(cfg: CheckpointConfig) -> list[str]:
    """List the checkpoints in `save_dir`, files and folders, that the keep_* settings no longer keep after a save."""
    return [os.path.join(cfg.save_dir, name) for name in outdated_names(cfg, _names_in(cfg.save_dir))]


def outdated_names(cfg: CheckpointConfig, names: Collection[str]) -> list[str]:
    """List those of these checkpoints that the keep_* settings no longer keep."""
    ending = re.escape(cfg.checkpoint_suffix) + ENDINGS
    gone: list[str] = []
    if cfg.keep_interval_updates > 0:
        by_updates = _matching(names, rf"checkpoint_\d+_(\d+){ending}")
        every = cfg.keep_interval_updates_pattern
        prunable = [(name, updates) for name, updates in by_updates if every <= 0 or updates % every != 0]
        gone += _beyond(prunable, cfg.keep_interval_updates)
    if cfg.keep_last_epochs > 0:
        gone += _beyond(_matching(names, rf"checkpoint(\d+){ending}"), cfg.keep_last_epochs)
    if cfg.keep_best_checkpoints > 0:
        gone += _beyond(_kept_best(cfg, names), cfg.keep_best_checkpoints)
    return gone


def _beyond(checkpoints: list[tuple[str, float]], count: int) -> list[str]:
    """List the names beyond the first `count` numbers; file and folder of one number count as one."""
    kept = list(dict.fromkeys(number for _, number in checkpoints))[:count]
    return [name for name, number in checkpoints if number not in kept]
