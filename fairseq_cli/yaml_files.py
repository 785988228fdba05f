"""Read YAML files before hydra does, to report problems with file and line and to limit their size."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq.dataclass.values import shown

MAX_NODES = 20_000  # values in a file, with those of an alias counted at each use; the longest stock YAML has 100
MAX_DEPTH = 40
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "null", "seq", "map")))
_HEADER = re.compile(r"\s*#\s*@")  # header lines that hydra reads
# name of a YAML file; the only interpolations that hydra resolves in it are ${group} and ${defaults.N.group}
NAME = re.compile(r"([^$]|\$\{(?!defaults(\.\d+)?\})[\w./@]+\})*")
_REFERENCE = re.compile(r"\$\{(?:defaults\.\d+\.)?([\w./@]+)\}")  # a name that only refers to another group's
MAX_FILES = 200  # YAML files of a composition
_MAX_BYTES = 255  # bytes of a file name: the limit of Linux's file systems
_QUOTE = "(Inside braces, ??? must be quoted: '???'.)"


def file_name(name: str) -> str:
    """The file name of a config: hydra adds .yaml if it is missing."""
    return name if name.endswith((".yaml", ".yml")) else name + ".yaml"


def read(path: Path) -> dict[str, Any]:
    """Content of a YAML file as plain values, interpolations as text; an empty file is an empty dict.

    Raises:
        ValueError: it cannot be read, is not YAML, is not a group of keys, or is too large (by aliases, for example).
            The message has the file, and the line if known.
    """
    try:
        _check_size(path)
        content: object = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{path}{line} is not YAML: {error.problem or error.context}. {_QUOTE}") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        # the last two: a date such as 2026-13-32, a number such as 1e9999
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} contains {shown(content)}: it must be a group of keys, such as `common: {{seed: 1}}`."
        )
    _check_defaults(path, content.get("defaults"))
    return cast("dict[str, Any]", content)


def _check_size(path: Path) -> None:
    """Limit the number of values and their depth, without building them: nested aliases could fill any memory.

    Raises:
        ValueError: there are too many values, an alias is inside its own anchor, or a value has an unsupported tag.
    """
    sizes: dict[str, tuple[int, int]] = {}  # anchor -> number of values, depth
    # (anchor, values, depth below it) of the collections that enclose an event
    open_: list[tuple[str | None, int, int]] = [(None, 0, 0)]

    def add(values: int, depth: int) -> None:
        anchor, number, deepest = open_[-1]
        open_[-1] = anchor, number + values, max(deepest, depth)
        line = event.start_mark.line + 1
        if sum(entry[1] for entry in open_) > MAX_NODES:
            raise ValueError(f"line {line}: with aliases expanded, the file has more than {MAX_NODES:,} values.")
        if len(open_) - 1 + depth > MAX_DEPTH:
            raise ValueError(f"line {line}: groups and lists are nested more than {MAX_DEPTH} deep.")

    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(itertools.takewhile(_HEADER.match, file), 1):
            if len(text.lstrip("# ").split()) != 2:
                raise ValueError(
                    f"line {number}: {text.strip()!r} must be a word and its value, such as `# @package _global_`."
                )
        file.seek(0)
        for event in yaml.parse(file, Loader=yaml.SafeLoader):
            if (tag := getattr(event, "tag", None)) not in _TAGS:
                raise ValueError(
                    f"line {event.start_mark.line + 1}: the tag {tag} is not supported. Write the value without it."
                )
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in sizes and any(anchor == event.anchor for anchor, _, _ in open_):
                    raise ValueError(
                        f"line {event.start_mark.line + 1}: *{event.anchor} is inside &{event.anchor} itself."
                    )
                add(*sizes.get(event.anchor, (1, 0)))
            elif isinstance(event, yaml.ScalarEvent):
                add(1, 0)
                if event.anchor:
                    sizes[event.anchor] = 1, 0
            elif isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, 1, 0))
                add(0, 0)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, values, depth = open_.pop()
                if anchor:
                    sizes[anchor] = values, depth + 1
                add(values, depth + 1)


# -- defaults lists ----------------------------------------------------------------------------------------------------


def _check_defaults(path: Path, defaults: Any) -> None:
    """Check for the form that hydra only asserts: a list of names and of `group: name`."""
    if defaults is None:
        return
    form = "it must be a list, each entry _self_, the name of another YAML, or `group: name`."
    if not isinstance(defaults, list):
        raise ValueError(f"{path}: defaults is {shown(defaults)}: {form}")
    for number, entry in enumerate(defaults, 1):
        options = list(entry.values()) if isinstance(entry, dict) else [entry]
        names = [name for option in options for name in (option if isinstance(option, list) else [option])]
        nothing = isinstance(entry, dict) and None in options  # `group: null`; a list of names has no null
        well_formed = all(
            NAME.fullmatch(name) if isinstance(name, str) else name is None and nothing for name in names
        ) and not any(isinstance(option, list) and None in option for option in options)
        keys = [key for key in entry if key != "optional"] if isinstance(entry, dict) else ["_"]
        if not well_formed or len(keys) != 1 or not isinstance(keys[0], str) or isinstance(entry, list):
            raise ValueError(f"{path}: entry {number} of defaults is {shown(entry)}: {form}")


def selected(defaults: Any) -> Iterator[tuple[str, str]]:
    """(group, name) of every YAML that a defaults list selects, as written; the group is "" for a name alone."""
    for entry in defaults or []:
        if isinstance(entry, dict):
            group, value = next((key, value) for key, value in entry.items() if key != "optional")
            group = group.split()[-1].split("@")[0]  # "override hydra/launcher", "optional model@package"
            for name in value if isinstance(value, list) else [value]:
                yield group, name or ""
        elif entry != "_self_":
            yield "", entry.split("@")[0]


def read_all(primary: Path, chosen: Sequence[tuple[str, str]], folders: Sequence[Path]) -> set[str]:
    """Read a config's YAML and all YAMLs that its defaults lists, and groups on the command line, select.

    Args:
        primary: the YAML of --config-name.
        chosen: (group, name) of `group=name` on the command line.
        folders: where hydra searches for YAML files.
    Returns:
        The groups that the defaults lists select from; hydra requires `+group=name` for others.
    Raises:
        ValueError: one of them cannot be read, a circle of defaults lists, a name too long for a file, or an entry
            `${group}` for a group without exactly one name.
    """
    choices: dict[str, list[str]] = {}  # group -> the names that a defaults list selects from it
    references: list[tuple[Path, str]] = []  # entries that take the name of another group
    number = 0

    def visit(path: Path, place: str, around: tuple[Path, ...]) -> None:
        nonlocal number
        number += 1
        if path in around:
            raise ValueError(
                f"{path}: its defaults list leads back to it, through {' and '.join(str(other) for other in around)}."
            )
        if number > MAX_FILES:
            raise ValueError(f"{path}: the defaults lists of this config select more than {MAX_FILES} YAML files.")
        for group, name in selected(read(path).get("defaults")):
            group = group.strip("/") if group.startswith("/") or not place else f"{place}/{group}".strip("/")
            choices.setdefault(group, []).append(name)
            if _REFERENCE.fullmatch(name):
                references.append((path, name))
            follow(group, name, (*around, path))

    def follow(group: str, name: str, around: tuple[Path, ...]) -> None:
        whole = name.strip("/") if name.startswith("/") else f"{group}/{name}".strip("/")
        if any(len(os.fsencode(part)) > _MAX_BYTES for part in file_name(whole).split("/")):
            place = f"{around[-1]}: its defaults list" if around else f"{group}={shown(name)}"
            raise ValueError(
                f"{place} has a name that is longer than {_MAX_BYTES} bytes, the limit of file names: {shown(name)}."
            )
        found = next(
            (folder / file_name(whole) for folder in folders if name and (folder / file_name(whole)).is_file()), None
        )
        if found is not None:  # else hydra reports it
            visit(found, whole.rpartition("/")[0], around)

    visit(primary, "", ())
    for group, name in chosen:
        follow(group, name, ())
    for path, reference in references:
        group = _REFERENCE.sub(r"\1", reference)
        if group in choices and group not in dict(chosen) and len([name for name in choices[group] if name]) != 1:
            raise ValueError(
                f"{path}: its defaults list has {reference}, but {group} does not have exactly one name there."
            )
    return {*choices} - {""}
