"""What a tracker must know when a run resumes, such as the run's id: a JSON file in `checkpoint.save_dir`."""

from __future__ import annotations

import json
import os
from pathlib import Path


def recall(path: Path) -> dict[str, str]:
    """Read the file; empty where it is missing or damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: str(value) for key, value in kept.items()} if isinstance(kept, dict) else {}


def keep(path: Path, **values: str) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
