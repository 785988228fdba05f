"""Rewrite the arguments of `fairseq-hydra-train` to a form that hydra accepts.

Hydra requires all overrides next to each other, distinguishes `key=value` (in the YAML) from `+key=value` (not in it),
and refuses parentheses without quotes. Here overrides can be anywhere, need no plus, and a value that hydra cannot read
is taken as text.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from typing import NamedTuple

from fairseq_cli.yaml_files import MAX_DEPTH, NAME

_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--experimental-rerun",
    "--explain-key",
)
_WITHOUT_VALUE = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    "--multirun",
    "-m",
    "--shell-completion",
    "-sc",
    "--list-configs",
)
_INFO = ("--info", "-i")
# --info takes one of these or no value
_INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_LOCAL_RANK = ("--local_rank", "--local-rank")  # torch.distributed.launch appends one of them, depending on its version
OPTIONS = (*_WITH_VALUE, *_WITHOUT_VALUE, *_INFO, *_LOCAL_RANK)
_LONG_NAMES = {
    "-cd": "--config-dir",
    "-cn": "--config-name",
    "-cp": "--config-path",
    "-c": "--cfg",
    "-p": "--package",
    "-m": "--multirun",
}


class CommandLine(NamedTuple):
    """A command's arguments, sorted."""

    overrides: list[str]  # key=value, +key=value, ~key ..., in the order typed
    options: dict[str, str | None]  # hydra's own options by their long names; None for those without a value
    local_rank: str | None

    def arguments(self) -> list[str]:
        """The arguments in the order that hydra requires: overrides, then options."""
        flat = list(self.overrides)
        for name, value in self.options.items():
            flat += [name] if value is None else [name, value]
        return flat


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Sort arguments (without the program's name) into overrides, hydra's options and the launcher's local rank.

    Raises:
        ValueError: an option that requires a value has none.
    """
    overrides: list[str] = []
    options: dict[str, str | None] = {}
    local_rank = None
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            overrides.append(word)
            continue
        if word == "--":
            continue
        name, equals, value = word.partition("=")
        name = _whole_option(name)
        if name in _INFO:
            topic = value if equals else (rest.pop(0) if rest and rest[0] in _INFO_TOPICS else "all")
            options["--info"] = topic
        elif name in _WITH_VALUE or name in _LOCAL_RANK:
            if not equals:
                if not rest:
                    raise ValueError(f"{name} requires a value.")
                value = rest.pop(0)
            if name in _LOCAL_RANK:
                local_rank = value
            else:
                options[_LONG_NAMES.get(name, name)] = value
        else:
            options[_LONG_NAMES.get(name, word if equals else name)] = None
    return CommandLine(overrides, options, local_rank)


def split_off_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words that are not hydra's options, hydra's options with their values), each in the order typed."""
    others: list[str] = []
    own: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name = _whole_option(word.partition("=")[0])
        if name not in OPTIONS:
            others.append(word)
            continue
        own.append(word)
        takes_next = name in _WITH_VALUE or name in _LOCAL_RANK or (name in _INFO and rest and rest[0] in _INFO_TOPICS)
        if takes_next and "=" not in word and rest:
            own.append(rest.pop(0))
    return others, own


def _whole_option(name: str) -> str:
    """The full option name for an unambiguous abbreviation, as in argparse."""
    known = [*_WITH_VALUE, *_WITHOUT_VALUE, *_INFO, *_LOCAL_RANK]
    if name in known or not name.startswith("--"):
        return name
    meant = [option for option in known if option.startswith(name)]
    return meant[0] if len(meant) == 1 else name


def override_value(overrides: Sequence[str], key: str) -> str | None:
    """The value that the last override of `key` sets, without quotes; None if there isn't one."""
    found = None
    for word in overrides:
        name, equals, value = word.lstrip("+").partition("=")
        if equals and name == key:
            found = value.strip("'\"")
    return found


def chosen_groups(overrides: Sequence[str], groups: Container[str]) -> list[tuple[str, str]]:
    """(group, name) of the overrides that select from a group, one per name of a sweep."""
    chosen = []
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        group = key.split("@")[0]
        if group in groups:
            chosen += [(group, name.strip("'\" ")) for name in value.split(",")]
    return chosen


def normalise_override(word: str, groups: Container[str], in_defaults: Container[str]) -> str:
    """Rewrite an override so that hydra accepts it, whether or not the YAML has its key.

    Args:
        word: as typed: key=value, +key=value, ++key=value, ~key, group=name.
        groups: names of config groups (model, optimizer, folders of the user's own YAMLs), which are selected and not
            set.
        in_defaults: those of them that are in defaults lists.
    Raises:
        ValueError: there is no key, or brackets are nested more than MAX_DEPTH deep.
    """
    if word.startswith("~") or "=" not in word:
        return word
    key, _, value = word.lstrip("+").partition("=")
    if not key.strip():
        raise ValueError(f"{word!r} has no key before the equals sign.")
    group = key.split("@")[0]
    if group.split("/")[0].split(".")[0] == "hydra":
        return word
    if group in groups and not value.startswith("{"):
        _check_choice(group, value)
        return readable(f"{key}={value}") if group in in_defaults else readable(f"+{key}={value}")
    if "/" in key or "@" in key:
        return word
    return readable(f"++{key}={value}")


def _check_choice(group: str, value: str) -> None:
    """Refuse a value that hydra does not read as a name, a list of names or a sweep, which hydra only asserts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        choice = OverridesParser.create().parse_override(f"{group}={value}").value()
    except HydraException:
        choice = value.strip()  # `readable` quotes it
    if choice is None:
        raise ValueError(f"{group} is null: write ~{group} to leave it out.")
    if any(
        isinstance(item, bool | int | float | list | dict) or (isinstance(item, str) and not NAME.fullmatch(item))
        for item in (choice if isinstance(choice, list) else [choice])
    ):
        raise ValueError(f"{group} is {value}: it must be the name of one of its YAML files or classes, or null.")


def readable(override: str) -> str:
    """The override, with its value quoted if hydra's grammar cannot read it: (0.9,0.98), a path with brackets.

    Raises:
        ValueError: brackets are nested more than MAX_DEPTH deep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    key, _, value = override.partition("=")
    if max(itertools.accumulate((mark in "[{(") - (mark in "]})") for mark in value), default=0) > MAX_DEPTH:
        raise ValueError(f"{key.lstrip('+')}: brackets are nested more than {MAX_DEPTH} deep.")
    try:
        parser.parse_override(override)
        return override
    except HydraException:
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        quoted = f"{key}='{escaped}'"
    try:
        parser.parse_override(quoted)
        return quoted
    except HydraException:
        return override  # hydra's own message says what is wrong with the key
