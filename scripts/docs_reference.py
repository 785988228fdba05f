"""Reference pages of the documentation, written from the code itself: config keys from the dataclasses, commands from
their parsers.

Run it to read the pages as Markdown: `python scripts/docs_reference.py`. `scripts/docs_hooks.py` puts them into the
site.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, get_type_hints
from unittest import mock

import fairseq  # noqa: F401  (fills the config groups)
from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS, plain
from fairseq.dataclass.validate import remark_on
from fairseq.dataclass.values import allowed, shown

DISTRIBUTION = "fairseq-hpu"
CONFIG_FOLDER = "reference/config"
COMMANDS_PAGE = "reference/commands.md"
FILE_ENDINGS = {"safetensors", "onnx", "pt"}  # `model.safetensors` is a file, not a key
_WIDE = "---\nhide: [toc]\n---\n"  # of pages that are one table: no list of headings beside it
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|])")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Key(NamedTuple):
    """One config key, ready for a table."""

    path: str  # group.key, or group.key.inner
    takes: str
    default: str
    help: str
    remark: str | None  # of keys whose feature is not offered, or that have no effect


# --- config keys


def config_pages() -> dict[str, str]:
    """Page -> Markdown, one page for each config group that has keys, and an index."""
    pages = {}
    rows = []
    for group in (*FIXED_GROUPS, *REGISTRY_GROUPS):
        dataclasses = _dataclasses(group)
        if dataclasses:
            pages[f"{CONFIG_FOLDER}/{group}.md"] = _group_page(group, dataclasses)
            names = ", ".join(f"`{name}`" for name in dataclasses if name) or ""
            count = len({key.path for dataclass in dataclasses.values() for key in keys(group, dataclass)})
            rows.append(f"| [{group}]({group}.md) | {names} | {count} |")
    pages[f"{CONFIG_FOLDER}/index.md"] = "\n".join(
        [
            "# Config reference",
            "",
            "Every group, key, type and default, generated from the config dataclasses. "
            "Set a key on the command line as `group.key=value`.",
            "",
            "| group | choices (`group=NAME`, or `_name` in the YAML) | keys |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )
    return pages


def _dataclasses(group: str) -> dict[str, type[FairseqDataclass]]:
    """Choice -> dataclass of a group; a group without choices has the one choice ""."""
    if group in FIXED_GROUPS:
        return {"": FIXED_GROUPS[group]}
    return dict(sorted(CONFIG_GROUPS.get(group, {}).items()))


def _group_page(group: str, dataclasses: Mapping[str, type[FairseqDataclass]]) -> str:
    lines = [_WIDE, f"# `{group}`", ""]
    anchored: set[str] = set()  # choices of a group share keys; the first one has the anchor

    def cell(key: Key) -> str:
        anchor = "" if key.path in anchored else f'<a id="{key.path}"></a>'
        anchored.add(key.path)
        return f"{anchor}`{key.path}`"

    for choice, dataclass in dataclasses.items():
        if choice:
            lines += [f"## `{group}={choice}`", ""]
        lines += [_escaped(_summary(dataclass)), ""]
        found = list(keys(group, dataclass))
        offered = [key for key in found if key.remark is None]
        others = [key for key in found if key.remark is not None]
        if offered:
            lines += ["| key | takes | default | what it does |", "| --- | --- | --- | --- |"]
            lines += [f"| {cell(key)} | {key.takes} | {key.default} | {key.help} |" for key in offered]
            lines.append("")
        if others:
            lines += ["Accepted because fairseq's configs have them:", "", "| key | default | |", "| --- | --- | --- |"]
            lines += [f"| {cell(key)} | {key.default} | {_escaped(key.remark or '')} |" for key in others]
            lines.append("")
    return "\n".join(lines)


def keys(group: str, dataclass: type[FairseqDataclass], prefix: str = "") -> Iterator[Key]:
    """The keys of a config dataclass in the order of its fields; those of nested dataclasses one by one."""
    defaults, types, declared = dataclass.field_defaults(), get_type_hints(dataclass), plain(dataclass())
    for field in fields(dataclass):
        if field.name == "_name":
            continue
        inner = defaults[field.name]
        path = f"{group}.{prefix}{field.name}"
        if isinstance(inner, FairseqDataclass):
            yield from keys(group, type(inner), f"{prefix}{field.name}.")
            continue
        default = declared[field.name]
        yield Key(
            path, _takes(field.metadata, types[field.name], default), _default(default), _help(field), remark_on(path)
        )


@functools.cache
def known_keys() -> frozenset[str]:
    """Every `group.key` and `group.key.inner` that has a row in the reference."""
    return frozenset(
        key.path
        for group in (*FIXED_GROUPS, *REGISTRY_GROUPS)
        for dataclass in _dataclasses(group).values()
        for key in keys(group, dataclass)
    )


def _takes(metadata: Mapping[str, Any], declared: Any, default: Any) -> str:
    """What a field takes: its type or choices, then the bounds and the unit that its metadata has."""
    text = _escaped(allowed(declared, default))
    choices = metadata.get("choices")
    if choices:
        text = "one of " + ", ".join(f"`{choice}`" for choice in choices)
    more = [f"at least {_code(metadata['at_least'])}"] if "at_least" in metadata else []
    more += ["from 0 to 1"] if metadata.get("share") else []
    if "unit" in metadata:
        more.append(_escaped(str(metadata["unit"])))
    return "; ".join([text, *more])


def _default(value: Any) -> str:
    if value == "???":
        return "must be set"
    if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
        return f"that of `{match[1]}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return _code(value) if value != "" else "empty"


def _help(field: Any) -> str:
    return _escaped(field.metadata.get("help") or "")


def _code(value: Any) -> str:
    return "`" + (value if isinstance(value, str) else shown(value)).replace("|", "\\|") + "`"


def _summary(cls: type) -> str:
    """The first paragraph of a docstring, on one line; empty where `dataclass` wrote the docstring itself."""
    text = inspect.getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else " ".join(text.split("\n\n")[0].split())


# --- commands


class _Parser(Exception):
    """Raised where a command would print its help: carries the parser out."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def commands_page() -> str:
    """The page of all console commands, each with its options, or with its usage text where it has no argparse
    parser.
    """
    scripts = importlib.metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts")
    lines = [
        "# Command reference",
        "",
        "Generated from the commands' own parsers; each command prints the same with `--help`.",
        "",
    ]
    for script in sorted(scripts, key=lambda script: script.name):
        lines += [f"## `{script.name}`", "", *_command(script.name, script.value), ""]
    return "\n".join(lines)


def _command(name: str, target: str) -> Iterator[str]:
    module, _, function = target.partition(":")
    main = getattr(importlib.import_module(module), function)

    def carry_out(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Parser(parser)

    text = io.StringIO()
    with (
        mock.patch("sys.argv", [name, "--help"]),
        mock.patch.object(argparse.ArgumentParser, "print_help", carry_out),
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
    ):
        try:
            main()
        except _Parser as found:
            if found.parser.usage is None:  # else the parser is a part only of what the command takes
                yield from _parser(found.parser)
                return
            text.write(found.parser.format_help())
        except SystemExit as stop:
            assert stop.code in (0, None), f"{name} --help ended with {stop.code}"
    assert text.getvalue().strip(), f"{name} --help printed nothing"
    yield from ("```text", text.getvalue().strip(), "```")


def _parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=90)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups)
    usage = formatter.format_help().strip()
    yield from (_escaped(" ".join((parser.description or "").split())), "", "```text", usage, "```", "")
    yield from ("| option | default | |", "| --- | --- | --- |")
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        default = "" if action.default in (None, False, argparse.SUPPRESS) else _code(action.default)
        if action.required and action.option_strings:
            default = "must be given"
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        yield f"| {_option(action)} | {default} | {_escaped(' '.join(text.split()))} |"


def _option(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        value = "/".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())
        value += " ..." if action.nargs in ("+", "*", "...") else ""
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def pages() -> dict[str, str]:
    """All generated pages: path below docs/ -> Markdown."""
    return {**config_pages(), COMMANDS_PAGE: commands_page()}


if __name__ == "__main__":
    for path, markdown in pages().items():
        print(f"<!-- {path} -->\n{markdown}")
