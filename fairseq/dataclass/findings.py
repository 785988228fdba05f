"""Findings: the errors and warnings of config rules."""

from __future__ import annotations

from typing import Any, NamedTuple

from omegaconf import DictConfig


class Finding(NamedTuple):
    """An error or warning of a config rule."""

    text: str
    stops: bool  # True: an error, which stops the run; False: a warning
    name: str = ""  # the topic, which does not change with the text; "": the config group


def wrong(text: str, name: str = "") -> Finding:
    """Make an error: the run would fail later, or train something other than intended."""
    return Finding(text, True, name)


def odd(text: str, name: str = "") -> Finding:
    """Make a warning: something that an engineer would ask about."""
    return Finding(text, False, name)


def named(group: Any, *names: str) -> bool:
    """Whether a group configures one of these registered classes."""
    return isinstance(group, DictConfig) and group.get("_name") in names
