"""The machine: memory for data loading, and, if Gaudi's tools are installed, software, cards and links."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from fairseq.preflight.plan import Launch, Split, audio
from fairseq.preflight.report import Section, gigabytes

RECIPE_HOST_MEMORY = 512 * 2**30  # the recipe's requirement for the host of 8 cards
CARDS = {"gaudi": 32, "gaudi2": 96, "gaudi3": 128}  # GiB
GPUS = (24, 80, 96, 141)  # GiB, of usual cards for training
_MODELS = {"HL-20": "gaudi", "HL-22": "gaudi2", "HL-32": "gaudi3"}
_INTERFACES = Path("/sys/class/net")
_DRIVER = re.compile(r"^driver:\s*habanalabs", re.MULTILINE)


class Tools(NamedTuple):
    """Findings of hl-smi and ethtool; None or empty if they are not installed."""

    version: str | None
    card: str | None  # a key of CARDS
    cards: int
    links: int  # interfaces of the habanalabs driver
    down: list[str]  # those without a link


def memory(cfg: DictConfig, splits: list[Split], batch_bytes: int, launch: Launch) -> Section:
    """Estimate the host memory of one node: processes, and the batches that their workers prefetch.

    Args:
        batch_bytes: size of the largest batch as a worker makes it.
    """
    section = Section("Host")
    workers = cfg.dataset.num_workers
    ahead = max(2, -(-cfg.dataset.data_buffer_size // workers)) if workers else 0
    scale = 1 if sys.platform == "darwin" else 1024
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale  # this one: Python, torch, the manifests
    manifests = sum(manifest.copied_bytes() for split in splits for manifest in audio(split).manifest.manifests)
    total = launch.processes * ((1 + workers) * (process + manifests) + (workers * ahead + 1) * batch_bytes)
    section.say(
        "memory",
        f"at least {gigabytes(total)} GB per node: {launch.processes} rank(s) x (1 + {workers} workers) x "
        f"{gigabytes(process)} GB, and {workers} x {ahead} prefetched batches per rank of {batch_bytes / 2**20:.1f} MB "
        "each (the recipe has 512 GB for 8 cards)",
    )
    section.values.update(
        memory_bytes=total, process_bytes=process, batch_bytes=batch_bytes, workers=workers, prefetch=ahead
    )
    if total > RECIPE_HOST_MEMORY:
        section.problem(
            "host-memory",
            f"loading data takes {gigabytes(total)} GB of the host's memory, more than the recipe's 512 GB.",
            "Lower dataset.num_workers or dataset.data_buffer_size.",
        )
    return section


def add_tools(section: Section, tools: Tools) -> None:
    """Add the findings of Gaudi's tools, if they are installed."""
    if tools.version or tools.card:
        kind = f" of type {tools.card}" if tools.card else ""
        section.say("Gaudi", f"software {tools.version or 'unknown'}, {tools.cards or 'no'} card(s){kind}")
    if tools.links:
        section.say("links", f"{tools.links} interfaces of the habanalabs driver, {len(tools.down)} down")
    section.values["tools"] = tools._asdict()
    if tools.down:
        commands = "; ".join(f"sudo ip link set {name} up" for name in tools.down[:4])
        more = f"; and the same for {len(tools.down) - 4} more" if len(tools.down) > 4 else ""
        section.problem(
            "links-down", f"no link on {', '.join(tools.down)}: the cards could not reach each other.", commands + more
        )


def ask_tools(interfaces: Path = _INTERFACES) -> Tools:
    """Run hl-smi and ethtool if PATH has them."""
    version_text, listing = _output("hl-smi", "-v"), _output("hl-smi")
    version = re.search(r"hl-(\d+\.\d+(?:\.\d+)?)", version_text + listing)
    models = re.findall(r"\bHL-\d{2}", listing)
    card = next((_MODELS[model] for model in models if model in _MODELS), None)
    managed = []
    if shutil.which("ethtool") and interfaces.is_dir():
        managed = [
            path.name for path in sorted(interfaces.iterdir()) if _DRIVER.search(_output("ethtool", "-i", path.name))
        ]
    down = [name for name in managed if re.search(r"Link detected:\s*no", _output("ethtool", name))]
    return Tools(version[1] if version else None, card, len(models), len(managed), down)


def _output(*command: str) -> str:
    """Output of a command; empty if it is not installed, cannot start or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
