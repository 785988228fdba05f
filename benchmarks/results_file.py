"""Write benchmark results to files, with the machine and the versions they were measured with."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "soundfile")


def processor_name() -> str:
    """Model name of the processor on Linux; elsewhere its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Hardware and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` with the date and the environment; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    path.write_text(
        json.dumps({"date": date, "environment": environment(), **result}, indent=1) + "\n", encoding="utf-8"
    )
    return path
