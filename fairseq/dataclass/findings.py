"""What a rule about a config says of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from omegaconf import DictConfig


class Finding(NamedTuple):
    """One thing that a rule found."""

    text: str
    stops: bool  # an error, which stops the run; else a warning
    name: str = ""  # the topic, which does not change with the text; "": the config group


def wrong(text: str, name: str = "") -> Finding:
    """An error: the run could only fail later, or would train something else than was meant."""
    return Finding(text, True, name)


def odd(text: str, name: str = "") -> Finding:
    """A warning: what an engineer would ask about."""
    return Finding(text, False, name)


def named(group: Any, *names: str) -> bool:
    """Whether a group configures one of these registered classes."""
    return isinstance(group, DictConfig) and group.get("_name") in names
