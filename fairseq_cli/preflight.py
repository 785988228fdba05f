"""`fairseq-preflight`: report what would stop or slow a run before it starts, on any machine."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from fairseq.preflight.checks import STEPS, Options, check
from fairseq.preflight.heartbeat import Heartbeat
from fairseq.preflight.host import CARDS
from fairseq_cli import hydra_train, launcher_line

PROGRAM = "fairseq-preflight"
USAGE = f"""\
usage: {PROGRAM} [options] ARGUMENTS
       {PROGRAM} [options] [VARIABLE=value ...] LAUNCHER --its-flags fairseq-hydra-train ARGUMENTS

Check a run without a card. ARGUMENTS are those of fairseq-hydra-train. LAUNCHER is torchrun or python -m
torch.distributed.launch; its flags give the number of nodes and cards. Nothing is trained or written, and no vendor's
package is needed.

options:
  --json FILE                    also write the findings as JSON
  --nodes N                      number of machines, without a launcher
  --audio-seconds-per-second X   training speed of all cards together; the report then has the run's days
  --card {{gaudi,gaudi2,gaudi3}}   the card that the run must fit into (default: the one that hl-smi shows, else any)
  --cards N,N                    numbers of cards in the table of strategies (default: 1,8,32,256)
  --card-memory GB,GB            sizes of cards that it is compared with (default: 24,80,96,141; Gaudi: 32,96,128);
                                 without --card, the run must fit into the largest
  --steps {{tiny,full,none}}       which steps to run, on the CPU instead of Gaudi and on torch's lazy-tensor
                                 device: a narrow model on two rows of each shape (tiny, the default), also the
                                 config's own model and batches (full, slow), or none
  --help                         print this text

exit status: 0 nothing found, 1 problems, 2 unusable arguments. docs/preflight.md lists the problems.
"""
_OWN = ("--json", "--nodes", "--audio-seconds-per-second", "--card", "--cards", "--card-memory", "--steps")


def take_own(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split the words into this command's own options and the others, in order.

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
                raise ValueError(f"{name} needs a value after it")
            value = rest.pop(0)
        own[name] = value
    return own, others


def options_of(own: Mapping[str, str], nodes: int | None, processes: int | None) -> Options:
    """Combine this command's own options and the launcher's numbers.

    Raises:
        ValueError: a value that an option does not accept.
    """
    given = own.get("--nodes")
    if given is not None and (not given.isdigit() or int(given) < 1):
        raise ValueError(f"--nodes is {given!r}: it must be a whole number, 1 or more")
    if given is not None and nodes is not None and int(given) != nodes:
        raise ValueError(f"--nodes is {given}, but the launcher's --nnodes is {nodes}. Leave one of them out.")
    for name, values in (("--card", tuple(CARDS)), ("--steps", STEPS)):
        if own.get(name, values[0]) not in values:
            raise ValueError(f"{name} is {own[name]!r}: it must be one of: {', '.join(values)}")
    return Options(
        nodes=nodes or int(given or 1),
        processes=processes,
        speed=_speed(own.get("--audio-seconds-per-second")),
        card=own.get("--card"),
        steps=own.get("--steps", "tiny"),
        **{name: numbers for name in ("cards", "card_memory") if (numbers := _numbers(own, name))},
    )


def _numbers(own: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Read an option with whole numbers between commas, sorted; empty if it is not given."""
    option = f"--{name.replace('_', '-')}"
    if option not in own:
        return ()
    words = [word.strip() for word in own[option].split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{option} is {own[option]!r}: it must be whole numbers above 0 with commas, such as 8,32")
    return tuple(sorted({int(word) for word in words}))


def _speed(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ValueError(f"--audio-seconds-per-second is {text!r}: it must be a number above 0")
    return speed


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
        options = options_of(own, line.nodes, line.processes)
    except ValueError as error:
        _cannot(error)
    os.environ.update(line.environment)
    sys.argv[1:] = line.arguments
    status: list[int] = []

    def main(cfg: DictConfig) -> None:
        status.append(report(cfg, options, own.get("--json")))

    try:
        hydra_train.run_with_config(PROGRAM, main)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            if isinstance(stop.code, str):
                sys.stderr.write(stop.code + "\n")
            sys.exit(2)
    sys.exit(status[0] if status else 0)  # hydra's --cfg job and --help check nothing


def report(cfg: DictConfig, options: Options, json_file: str | None) -> int:
    """Check the composed config and print the report; return the exit status."""
    logging.getLogger().setLevel(logging.WARNING)  # keep the run's own log lines out of the report
    with Heartbeat(PROGRAM, "completing the config") as progress:
        run, problems = hydra_train.whole_config(cfg)
        found = check(run, problems, options, progress)
    sys.stdout.write(found.text() + "\n")
    if json_file is not None:
        Path(json_file).write_text(json.dumps(found.as_json(), indent=2, default=_plain) + "\n", encoding="utf-8")
    return found.status


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _cannot(error: ValueError) -> NoReturn:
    sys.stderr.write(f"{PROGRAM}: {error}\n")
    sys.exit(2)


if __name__ == "__main__":
    cli_main()
