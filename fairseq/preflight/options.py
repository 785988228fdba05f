"""What `fairseq-preflight` was asked beside the run's own config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairseq.preflight.host import CARDS

STEPS = ("tiny", "full", "none")


class Options(NamedTuple):
    """The command's own options."""

    nodes: int = 1
    # of a node, as a launcher would start them; None: distributed_training.distributed_world_size
    processes: int | None = None
    speed: float | None = None  # seconds of audio a second, all cards together
    card: str | None = None  # a key of CARDS
    steps: str = "tiny"

    @classmethod
    def from_words(cls, words: Mapping[str, str], nodes: int | None, processes: int | None) -> Options:
        """From `--name value` pairs and the launcher's numbers.

        Raises:
            ValueError: a value that an option does not take.
        """
        given = words.get("--nodes")
        if given is not None and (not given.isdigit() or int(given) < 1):
            raise ValueError(f"--nodes is {given!r}: it must be a number of machines, 1 or more")
        if given is not None and nodes is not None and int(given) != nodes:
            raise ValueError(f"--nodes is {given}, but the launcher's --nnodes says {nodes}: leave one of them out")
        for name, values in (("--card", tuple(CARDS)), ("--steps", STEPS)):
            if words.get(name, values[0]) not in values:
                raise ValueError(f"{name} is {words[name]!r}; it may be {', '.join(values)}")
        return cls(
            nodes or int(given or 1),
            processes,
            _speed(words.get("--audio-seconds-per-second")),
            words.get("--card"),
            words.get("--steps", "tiny"),
        )


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
