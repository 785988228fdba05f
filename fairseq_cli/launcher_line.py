"""Read a launcher's line without running it: the processes it would start, and the training command's arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_COMMAND = re.compile(r"(^|/)fairseq-hydra-train$|(^|/)hydra_train\.py$|^fairseq_cli\.hydra_train$")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
_LAUNCHERS = ("torch.distributed.launch", "torch.distributed.run", "torchrun")
_FLAG = re.compile(r"--(nproc[-_]per[-_]node|nnodes)(?:=(.*))?$")


class LauncherLine(NamedTuple):
    """A launcher's line, taken apart."""

    environment: dict[str, str]
    nodes: int | None  # None: no launcher
    processes: int | None  # per node
    arguments: list[str]


def read(words: Sequence[str]) -> LauncherLine:
    """Read `VARIABLE=value ... launcher --flags fairseq-hydra-train arguments`; only the arguments are required.

    Raises:
        ValueError: the launcher is not torch's, or its number of processes is not a number.
    """
    place = next((number for number, word in enumerate(words) if _COMMAND.search(word)), None)
    before, arguments = ([], list(words)) if place is None else (list(words[:place]), list(words[place + 1 :]))
    if place is None:
        while arguments and _VARIABLE.match(arguments[0]):  # `PT_HPU_LAZY_MODE=1 task.data=...`
            before.append(arguments.pop(0))
    environment = {}
    while before and _VARIABLE.match(before[0]):
        name, _, value = before.pop(0).partition("=")
        environment[name] = value
    is_python = bool(before) and re.search(r"(^|/)python[\d.]*$", before[0]) is not None
    launcher = next((word for word in before if word in _LAUNCHERS or word.endswith("/torchrun")), None)
    if launcher is None:
        others = before[1:] if is_python else before
        if [word for word in others if word != "-m"]:
            raise ValueError(
                f"{before[0]!r} is not a launcher that fairseq-preflight can read ({', '.join(_LAUNCHERS)}). Give the "
                "training command's own arguments, with --nodes N and "
                "distributed_training.distributed_world_size=CARDS_PER_NODE."
            )
        return LauncherLine(environment, None, None, arguments)
    numbers = {"nnodes": "1", "nproc_per_node": "1"}
    for number, word in enumerate(before):
        match = _FLAG.match(word)
        if match is not None:
            value = match[2] if match[2] is not None else (before[number + 1] if number + 1 < len(before) else "")
            numbers[match[1].replace("-", "_")] = value
    return LauncherLine(
        environment,
        _number("--nnodes", numbers["nnodes"].split(":")[0]),
        _number("--nproc_per_node", numbers["nproc_per_node"]),
        arguments,
    )


def _number(flag: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(
            f"{flag} is {text!r}: it must be a number, 1 or more. fairseq-preflight cannot count the cards of another "
            "machine."
        )
    return int(text)
