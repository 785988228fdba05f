"""`fairseq-preflight`: what would stop or slow a run, told before it starts, on any machine."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fairseq.preflight.options import Options
from fairseq.preflight.progress import Progress
from fairseq_cli import hydra_train, launcher_line

PROGRAM = "fairseq-preflight"
USAGE = f"""\
usage: {PROGRAM} [options] ARGUMENTS
       {PROGRAM} [options] [VARIABLE=value ...] LAUNCHER --its-flags fairseq-hydra-train ARGUMENTS

Check a run without a card: ARGUMENTS are those of fairseq-hydra-train, and LAUNCHER is torchrun or python -m
torch.distributed.launch, whose flags say how many nodes and cards there are. Nothing is trained or written, and no
vendor's package is needed.

options:
  --json FILE                    also write the findings as JSON
  --nodes N                      machines of the run (without a launcher)
  --audio-seconds-per-second X   what all cards together train; gives the days that the run takes
  --card {{gaudi,gaudi2,gaudi3}}   whose memory the run must fit into (default: the one that hl-smi shows, else any)
  --steps {{tiny,full,none}}       which steps run, on the CPU in Gaudi's place and on torch's lazy-tensor device:
                                 a narrow model's on two rows of each shape (tiny, the default), also the config's
                                 own model and batches (full: slow), or none
  --help                         this text

exit status: 0 nothing found, 1 problems, 2 arguments that cannot be used. docs/preflight.md names the problems.
"""
_OWN = ("--json", "--nodes", "--audio-seconds-per-second", "--card", "--steps")


def take_own(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This command's own options, and the other words in their order.

    Raises:
        ValueError: an option without its value.
    """
    own, others = {}, []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name not in _OWN:
            others.append(word)
            continue
        if not equals:
            if not rest:
                raise ValueError(f"{name} wants a value after it")
            value = rest.pop(0)
        own[name] = value
    return own, others


def cli_main() -> None:
    """The console command."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        sys.stdout.write(USAGE)
        sys.exit(0 if words else 2)
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)  # a launcher started this command itself: one of its processes is enough
    try:
        own, others = take_own(words)
        line = launcher_line.read(others)
        options = Options.from_words(own, line.nodes, line.processes)
    except ValueError as error:
        _cannot(error)
    os.environ.update(line.environment)
    sys.argv[1:] = line.arguments
    status: list[int] = []

    def main(cfg: DictConfig) -> None:
        status.append(check(cfg, options, own.get("--json")))

    try:
        hydra_train.run_with_config(PROGRAM, main)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            if isinstance(stop.code, str):
                sys.stderr.write(stop.code + "\n")
            sys.exit(2)
    sys.exit(status[0] if status else 0)  # --cfg job and --help of hydra check nothing


def check(cfg: DictConfig, options: Options, json_file: str | None) -> int:
    """Check what hydra composed and tell it; returns the exit status."""
    from fairseq.preflight import checks

    logging.getLogger().setLevel(logging.WARNING)  # the run's own lines are not this report's
    with Progress(PROGRAM, "completing the config") as progress:
        run, problems = hydra_train.whole_config(cfg)
        report = checks.check(run, problems, options, progress)
    sys.stdout.write(report.text() + "\n")
    if json_file is not None:
        Path(json_file).write_text(json.dumps(report.as_json(), indent=2, default=_plain) + "\n", encoding="utf-8")
    return report.status


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _cannot(error: ValueError) -> None:
    sys.stderr.write(f"{PROGRAM}: {error}\n")
    sys.exit(2)


if __name__ == "__main__":
    cli_main()
