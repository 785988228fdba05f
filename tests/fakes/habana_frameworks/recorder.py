"""A process's calls of the fake, in `calls`, and its state when it imported the fake, in `imported`."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

calls: list[tuple[str, dict[str, Any]]] = []  # (function, its arguments by name), in order
imported: dict[str, Any] = {}
undo: list[Callable[[], None]] = []  # restore what the import replaced in torch, for tests; call in reverse order
_PREFIXES = ("PT_", "HABANA_", "HLS_", "TORCH_DEVICE_")
_NAMES = ("ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def note(function: str, **arguments: Any) -> None:
    calls.append((function, arguments))


def count(function: str) -> int:
    return sum(name == function for name, _ in calls)


def note_import() -> None:
    """Record environment and process at import, when the real package reads its variables."""
    from torch.utils.data import get_worker_info

    imported.update(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        process=multiprocessing.current_process().name,
        is_spawned=multiprocessing.parent_process() is not None,
        is_worker=get_worker_info() is not None,
        command=sys.argv,
        environment={name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _NAMES},
        op_lists={kind: _read_list(kind) for kind in ("LOWER_PRECISION", "FP32")},
    )
    _write()
    atexit.register(_write)


def _read_list(kind: str) -> list[str] | None:
    """Lines of an op list as the bridge reads them, one operator each; None if no file is named or it is missing."""
    path = os.environ.get(f"PT_HPU_AUTOCAST_{kind}_OPS_LIST")
    return Path(path).read_text(encoding="utf-8").splitlines() if path and Path(path).is_file() else None


def _write() -> None:
    folder = os.environ.get("FAKE_HABANA_RECORD")
    if folder and imported.get("pid") == os.getpid():
        counts: dict[str, int] = {}
        for name, _ in calls:
            counts[name] = counts.get(name, 0) + 1
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps({**imported, "calls": counts}), encoding="utf-8")


def records(folder: Path) -> list[dict[str, Any]]:
    """Read what the processes wrote to a folder, by global rank."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(found, key=lambda record: int(record["environment"].get("RANK", 0)))
