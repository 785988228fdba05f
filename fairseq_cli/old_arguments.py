"""Convert fairseq's old argparse options (`--arch wav2vec2 --lr 0.0005 ...`) to config overrides.

The options come from the config dataclasses: each field is an option of its name, with older names in its metadata.
"""

from __future__ import annotations

import ast
import fnmatch
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import NamedTuple, get_type_hints

import fairseq  # noqa: F401 - fills the groups
from fairseq.dataclass import arguments
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.groups import CONFIG_GROUPS, current_name, unknown_name
from fairseq.dataclass.not_offered import NOT_OFFERED
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS
from fairseq.utils import import_user_module
from fairseq_cli import command_line

_ORDER = ("task", "model", "criterion", "optimizer", "lr_scheduler", *REGISTRY_GROUPS)  # of groups in the new command
_SELECTING = {"--" + ("arch" if group == "model" else group.replace("_", "-")): group for group in REGISTRY_GROUPS} | {
    "-a": "model"
}
_EVALUATION = ("common_eval", "generation", "eval_lm", "interactive", "bmuf")  # training does not read these groups
_LAUNCHER = {"--local_rank", "--local-rank"}  # torch.distributed.launch adds it to every command
_WIDTH = 100


class Option(NamedTuple):
    """The config key of an old option, and how its value is written."""

    key: str  # config key
    is_flag: bool  # typed without a value
    flag_value: str  # the value that a flag sets
    items: type | None  # item type of a list; None: not a list
    is_text: bool


class Words(NamedTuple):
    """The sorted words of a command line."""

    options: list[tuple[str, str | None]]  # known ones with their values (None: typed without), in order
    others: list[str]  # words that are not options
    unknown: list[list[str]]  # unknown options, each with the following words that may be its values


class HydraForm(NamedTuple):
    """The same command with overrides."""

    overrides: list[str]  # groups first, then keys
    from_options: bool  # whether some of them were options
    unknown: list[list[str]]
    notes: list[str]  # remarks about some of them


def split(words: Sequence[str], takes_value: Mapping[str, bool]) -> Words:
    """Sort the words of an argparse command line.

    Args:
        words: without the program's name.
        takes_value: known options, and whether a value follows. Unambiguous abbreviations are accepted.
    """
    options: list[tuple[str, str | None]] = []
    others: list[str] = []
    unknown: list[list[str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not is_option(word):
            others += [word] if word != "--" else []
            continue
        typed, equals, value = word.partition("=")
        name = _whole_name(typed, takes_value)
        if name is None:
            unknown.append([word])
            while rest and not equals and not is_option(rest[0]) and "=" not in rest[0]:
                unknown[-1].append(rest.pop(0))
        elif not takes_value[name]:
            options.append((name, value if equals else None))
        else:
            options.append((name, value if equals else rest.pop(0) if rest else None))
    return Words(options, others, unknown)


def is_option(word: str) -> bool:
    """Whether argparse reads a word as an option; -1 and -.5 are numbers."""
    return word.startswith("-") and word not in ("-", "--") and not word[1].isdigit() and word[1] != "."


def _whole_name(typed: str, known: Mapping[str, bool]) -> str | None:
    if typed in known:
        return typed
    meant = [name for name in known if typed.startswith("--") and len(typed) > 2 and name.startswith(typed)]
    return meant[0] if len(meant) == 1 else None


def known_options(chosen: Mapping[str, str]) -> dict[str, Option]:
    """Every option of training, by its name on the command line.

    Args:
        chosen: group -> the name selected in it (`{"model": "wav2vec2"}`). Other groups offer the fields of all their
            names.
    """
    selected = [
        (group, CONFIG_GROUPS[group][chosen[group]])
        for group in _ORDER
        if chosen.get(group) in CONFIG_GROUPS.get(group, {})
    ]
    fixed = [(group, dataclass) for group, dataclass in FIXED_GROUPS.items() if group not in _EVALUATION]
    groups = {group for group, _ in selected}
    other = [
        (group, dataclass)
        for group in _ORDER
        if group not in groups
        for dataclass in CONFIG_GROUPS.get(group, {}).values()
    ]
    last = [(group, FIXED_GROUPS[group]) for group in _EVALUATION]
    found: dict[str, Option] = {}
    # the first group with a name owns it
    for group, dataclass in [("common", FIXED_GROUPS["common"]), *selected, *fixed, *other, *last]:
        _add_options(found, group, dataclass)
    return found


def _add_options(found: dict[str, Option], group: str, dataclass: type) -> None:
    """Add options for a group's fields, except existing names and fields that refer to another group's field."""
    types = get_type_hints(dataclass)
    for field in fields(dataclass):
        default, wanted = arguments.default_of(field), arguments.interpret_dc_type(types[field.name])
        if field.name == "_name" or (
            isinstance(default, str) and default.startswith("${") and default.endswith(f".{field.name}}}")
        ):
            continue
        items = arguments.item_type(types[field.name])
        is_text = items is None and wanted not in (int, float, bool)
        option = Option(f"{group}.{field.name}", wanted is bool, "false" if default is True else "true", items, is_text)
        for name in arguments.option_names(field):
            found.setdefault(name, option)


def hydra_form(words: Sequence[str]) -> HydraForm:
    """Convert old training options to overrides; words that already are overrides stay unchanged.

    Args:
        words: a command line without the program's name and hydra's own options.
    """
    typed = {word.partition("=")[0].lstrip("+") for word in words if not is_option(word) and "=" in word}
    chosen = _chosen(words)
    known = known_options(chosen)
    takes_value = {name: not option.is_flag for name, option in known.items()} | dict.fromkeys(
        [*_SELECTING, *_LAUNCHER], True
    )
    sorted_words = split(words, takes_value)
    keys: list[str] = []
    notes = [
        str(unknown_name(group, name, CONFIG_GROUPS[group]))
        for group, name in chosen.items()
        if name not in CONFIG_GROUPS[group]
    ]
    for name, value in sorted_words.options:
        if value is None and takes_value[name]:
            notes.append(f"{name} has no value: it is dropped.")
        elif name in known:
            option = known[name]
            keys.append(f"{option.key}={option.flag_value if value is None else hydra_value(value, option)}")
            offered_instead = [
                advice for pattern, advice in NOT_OFFERED.items() if fnmatch.fnmatchcase(option.key, pattern)
            ]
            notes += [f"{option.key} is not offered: {advice}." for advice in offered_instead]
    overrides = [word for word in sorted_words.others if "=" in word]
    folders = [word for word in sorted_words.others if "=" not in word]
    keys[:0] = [f"task.data={folder}" for folder in folders[:1]]
    notes += [f"{word} is neither an option nor an option's value: it is dropped." for word in folders[1:]]
    groups = [f"{group}={chosen[group]}" for group in dict.fromkeys(_ORDER) if group in chosen and group not in typed]
    from_options = any(name not in _LAUNCHER for name, _ in sorted_words.options)
    return HydraForm([*groups, *overrides, *keys], from_options, sorted_words.unknown, notes)


def _chosen(words: Sequence[str]) -> dict[str, str]:
    """Group -> the name that an option (`--arch wav2vec2`) or override (`model=wav2vec2`) selects in it."""
    chosen: dict[str, str] = {}
    has_labels = False
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        has_labels = has_labels or name in ("--labels", "task.labels")
        if name in _SELECTING and (value if equals else after):
            chosen[_SELECTING[name]] = value if equals else after
        elif name.lstrip("+") in REGISTRY_GROUPS and equals:
            chosen[name.lstrip("+")] = value
    if "task" in chosen:
        chosen["task"] = current_name("task", {"_name": chosen["task"], "labels": has_labels}) or chosen["task"]
    return chosen


def hydra_value(text: str, option: Option) -> str:
    """A value in hydra's notation."""
    if option.items is not None:
        return "[" + ",".join(_items(text)) + "]"
    if option.is_text and (text == "" or any(sign in text for sign in ",[]{}'\"")) and "(" not in text:
        # unquoted, hydra would read a list, or a sweep over several values
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return text


def _items(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [part.strip() for part in text.split(",")]
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def explain(argv: Sequence[str], program: str = "fairseq-hydra-train") -> str:
    """Explain which command to use instead of one with old options, in several lines.

    Args:
        argv: the words after the program's name, including hydra's own options.
        program: the program of the new command.
    """
    words, hydras_own = command_line.split_off_options(argv)
    notes = _import_user_dir(words)
    form = hydra_form(words)
    known = [*known_options({}), *_SELECTING, *command_line.OPTIONS]
    for group in form.unknown:
        near = get_close_matches(group[0].partition("=")[0], known, n=1, cutoff=0.75)
        notes.append(
            f"There is no option {' '.join(group)}: it is dropped." + (f" Did you mean {near[0]}?" if near else "")
        )
    if not form.from_options:
        return "\n".join([*notes, *form.notes])
    return "\n".join(
        [
            "settings are written key=value, not as fairseq's older options (--key value). The same command:",
            "",
            *command_lines([program, *form.overrides, *hydras_own]),
            "",
            *notes,
            *form.notes,
            "Settings that are not given have this version's defaults. With --cfg job at the end, the command prints "
            "the whole config and does not train.",
        ]
    )


def _import_user_dir(words: Sequence[str]) -> list[str]:
    """Import the plug-ins of --user-dir, so that their options are known; returns an error message if that failed."""
    folders = [value for _, value in split(words, {"--user-dir": True}).options if value is not None]
    try:
        for folder in folders:
            import_user_module(CommonConfig(user_dir=folder))
    except ValueError as error:
        return [f"{error}."]
    return []


def command_lines(words: Iterable[str]) -> list[str]:
    """A shell command, quoted, in lines that end in a backslash."""
    lines = [""]
    for word in map(shell_word, words):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + word
    return ["    " + line for line in lines]


def shell_word(word: str) -> str:
    """A word quoted for a POSIX shell, with the more readable quotes."""
    if word and all(sign.isalnum() or sign in "_@%+=:,./-" for sign in word):
        return word
    if "'" in word and not any(sign in word for sign in '"\\$`!'):
        return f'"{word}"'
    return shlex.quote(word)
