"""What a rule about a config says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig


class Finding(NamedTuple):
    """One thing that a rule found."""

    text: str
    stops: bool  # an error, which stops the run; else a warning
    name: str = ""  # a short one that stays, for those who look for it; "": the rule's


Rule = Callable[[DictConfig], Iterator[Finding]]


def wrong(text: str, name: str = "") -> Finding:
    return Finding(text, True, name)


def odd(text: str) -> Finding:
    return Finding(text, False)


def named(group: Any, *names: str) -> bool:
    """Whether a group configures one of these registered classes."""
    return isinstance(group, DictConfig) and group.get("_name") in names
