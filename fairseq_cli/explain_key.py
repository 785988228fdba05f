"""`--explain-key KEY`: what a config key is for, what it takes, and its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_type_hints

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS, homes_of, nearest, plain, suggestion
from fairseq.dataclass.validate import remark_on
from fairseq.dataclass.values import allowed, shown

_WIDTH = 100


def explain(key: str, yaml: dict[str, Any], yaml_name: str) -> str:
    """The text for a key (optimization.update_freq, or update_freq alone) or for all keys of a group (optimization).

    Args:
        yaml: content of the --config-name YAML; its values are shown with the defaults.
    Raises:
        ValueError: there is no such key; the message has the nearest one.
    """
    group, dot, name = key.strip().lstrip("+").partition("=")[0].partition(".")
    if not dot and group in (*FIXED_GROUPS, *REGISTRY_GROUPS):
        return "\n".join(_listed(group))
    keys = [f"{group}.{name}"] if dot else homes_of(group)
    found = [text for full in keys for text in _explained(full, yaml, yaml_name)]
    if not found:
        raise ValueError(f"--explain-key {key}: there is no such key.{_meant(group, name)}")
    return "\n\n".join(found)


def _meant(group: str, name: str) -> str:
    """A hint for an unknown `group.name`, or `group` alone."""
    fields = [(place, field) for place, _, dataclass in _dataclasses() for field in dataclass.field_defaults()]
    if not name:
        homes = {field: place for place, field in reversed(fields)}
        near = get_close_matches(group, [*homes, *FIXED_GROUPS, *REGISTRY_GROUPS], n=1)
        return f" Did you mean '{homes[near[0]]}.{near[0]}'?" if near and near[0] in homes else nearest(group, near)
    return suggestion("", name, []) or nearest(f"{group}.{name}", [f"{place}.{field}" for place, field in fields])


def _dataclasses(group: str | None = None) -> Iterator[tuple[str, str, type[FairseqDataclass]]]:
    """(group, class of the group or "", dataclass) of all groups, or of one."""
    for name, dataclass in FIXED_GROUPS.items():
        if group in (None, name):
            yield name, "", dataclass
    for name in REGISTRY_GROUPS:
        for choice, dataclass in CONFIG_GROUPS.get(name, {}).items():
            if group in (None, name):
                yield name, choice, dataclass


def _listed(group: str) -> Iterator[str]:
    """A line for each key of a group."""
    for _, choice, dataclass in _dataclasses(group):
        if choice:
            yield f"{group}={choice}"
        for name, default in _defaults(dataclass).items():
            if remark_on(f"{group}.{name}") is None:
                yield f"  {group}.{name}={_text(default)}  {_help(dataclass, name)}".rstrip()


def _explained(key: str, yaml: dict[str, Any], yaml_name: str) -> Iterator[str]:
    """A paragraph for each meaning of a key: several classes of a group may have a field of this name."""
    group, _, path = key.partition(".")
    texts: dict[str, list[str]] = {}
    for _, choice, dataclass in _dataclasses(group):
        defaults, types = _defaults(dataclass), get_type_hints(dataclass)
        name, *inner = path.split(".")
        while (
            inner
            and isinstance(defaults.get(name), dict)
            and isinstance(dataclass.field_defaults()[name], FairseqDataclass)
        ):
            dataclass = type(dataclass.field_defaults()[name])
            defaults, types = _defaults(dataclass), get_type_hints(dataclass)
            name, *inner = inner
        if name not in defaults or inner:
            continue
        lines = [_help(dataclass, name)] if _help(dataclass, name) else []
        lines += [f"takes: {allowed(types[name], defaults[name])}", f"default: {_text(defaults[name])}"]
        texts.setdefault("\n".join(lines), []).append(choice)
    remark = remark_on(key)
    for text, choices in texts.items():
        of = f" ({group} {', '.join(filter(None, choices))})" if any(choices) else ""
        lines = [*text.split("\n"), *([remark] if remark else [])]
        values = yaml.get(group)
        if isinstance(values, dict) and path in values:
            lines.append(f"in {yaml_name}: {_text(values[path])}")
        wrapped = [textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines]
        yield "\n".join([f"{key}{of}", *wrapped])


def _defaults(dataclass: type[FairseqDataclass]) -> dict[str, Any]:
    return {name: value for name, value in plain(dataclass()).items() if name != "_name"}


def _help(dataclass: type[FairseqDataclass], name: str) -> str:
    return dataclass.__dataclass_fields__[name].metadata.get("help") or ""


def _text(value: Any) -> str:
    """A value as typed on the command line."""
    if value == "???":
        return "??? (you must set it)"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        value
        if isinstance(value, str)
        else shown(value).replace(", ", ",")
        if isinstance(value, list)
        else shown(value)
    )
