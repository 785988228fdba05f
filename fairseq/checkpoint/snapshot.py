"""Keep a checkpoint from before a divergence, which the keep_* settings would remove before anyone looks."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

from fairseq.checkpoint import atomic, io, retention
from fairseq.dataclass.configs import CheckpointConfig

NAME = "checkpoint_before_divergence"
MOST = 2  # per run: warnings that come again and again must not fill the disk
APART = 1000  # updates from a kept checkpoint to the beginning of what is worth another one
ROOM = 2  # free space that is left for the run's own saves, in checkpoints

_UPDATES = re.compile(r"checkpoint_\d+_(\d+)\D.*")


def keep_before(cfg: CheckpointConfig, update: int) -> str:
    """Keep the newest checkpoint from before an update under a name of its own, and say what was done.

    A hard link, so it costs nothing until the run removes the checkpoint. With `checkpoint.store`, the run's next save
    uploads it too.

    Args:
        cfg: the config group `checkpoint`.
    """
    kept = kept_snapshots(cfg)
    if len(kept) >= MOST or any(updates is None or update - updates < APART for updates in kept.values()):
        names = sorted(map(os.path.basename, kept))
        if len(names) == 1:
            return f"{names[0]} of an earlier warning is kept"
        return f"{' and '.join(names)} of earlier warnings are kept"
    for path in _newest_first(cfg):
        updates = _updates_of(path)
        if updates is None or updates >= update:
            continue
        size = _size(path)
        free = shutil.disk_usage(cfg.save_dir).free
        if free < ROOM * size:
            return (
                f"{path} (update {updates:,}) is from before this began, but is not kept: only {free / 2**20:,.0f} MiB "
                "are free. Copy it to another disk."
            )
        ending = retention.FOLDER if path.endswith(retention.FOLDER) else retention.FILE
        number = f"_{len(kept) + 1}" if kept else ""
        target = os.path.join(cfg.save_dir, f"{NAME}{number}{cfg.checkpoint_suffix}{ending}")
        try:
            _link(path, target)
        except FileNotFoundError:  # removed meanwhile, by a save in the background
            continue
        except OSError as error:
            return f"cannot keep {path} (update {updates:,}) as {target}: {error.strerror or error}. Copy it."
        return f"kept {path} (update {updates:,}), from before this began, as {target}"
    return f"{cfg.save_dir} has no checkpoint from before update {update:,}, when this began"


def kept_snapshots(cfg: CheckpointConfig) -> dict[str, int | None]:
    """Return path and updates of what earlier calls of `keep_before` kept; None: the file cannot be read."""
    return {path: _updates_of(path) for path in _named(cfg, NAME)}


def _named(cfg: CheckpointConfig, beginning: str) -> list[str]:
    pattern = rf"{beginning}.*{retention.ENDINGS}"
    return [path for path in retention.checkpoint_paths(cfg.save_dir, pattern) if isinstance(path, str)]


def _newest_first(cfg: CheckpointConfig) -> Iterator[str]:
    """The run's checkpoints in the order in which they were written, so that few of them are opened."""
    found: list[tuple[float, str]] = []
    for path in _named(cfg, "checkpoint"):
        if os.path.basename(path).startswith(NAME) or os.path.islink(path):
            continue
        try:
            found.append((os.stat(path).st_mtime, path))
        except FileNotFoundError:
            continue
    yield from (path for _, path in sorted(found, reverse=True))


def _updates_of(path: str) -> int | None:
    """The updates of a checkpoint, from its name or from its content; None if it cannot be read."""
    named = _UPDATES.fullmatch(os.path.basename(path))
    if named is not None:
        return int(named[1])
    try:
        return io.peek(path).num_updates
    except (OSError, ValueError):
        return None


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())


def _link(path: str, target: str) -> None:
    if not os.path.isdir(path):
        os.link(path, target)
        return
    with atomic.new_folder(target) as temporary:
        for name in os.listdir(path):
            os.link(os.path.join(path, name), os.path.join(temporary, name))
