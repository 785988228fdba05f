"""Convert config values to the types of their fields, and describe what a field takes."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

_SHOWN = 120  # characters of a value in a message
_WORDS: dict[Any, tuple[str, str]] = {  # one, several
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
}


def is_reference(value: Any) -> bool:
    """Whether a value is a placeholder: `???`, which the user must set, or text with an interpolation in it."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def coerce(value: Any, declared: Any) -> Any:
    """Convert a value to its field's type if it means one; else return it unchanged, for omegaconf to refuse.

    For an integer field, whole floats become integers (1e6, also inside lists and as text). For a list or tuple field,
    "(0.9, 0.98)" is read as a literal, and for a list 64 becomes [64]. YAML reads a bare `off` as false: for a field
    with the choice off, false means that. Fields of nested dataclasses are treated alike.
    """
    if is_reference(value):
        return value
    kind = kind_of(declared)
    if kind is int:
        return _whole(value)
    if is_dataclass(kind) and isinstance(value, dict):
        types = get_type_hints(kind)
        return {key: coerce(item, types.get(key, Any)) for key, item in value.items()}
    if value is False and isinstance(kind, type) and issubclass(kind, Enum) and "off" in kind.__members__:
        return "off"
    if get_origin(kind) not in (list, tuple):
        return value
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            # the last two: brackets nested too deeply to be parsed
            return value
    if isinstance(value, (int, float)) and get_origin(kind) is list:
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    item_type = next(iter(get_args(kind)), Any)
    return [coerce(item, item_type) for item in value]


def _whole(value: Any) -> Any:
    """1e6 and "1e6" as an integer; anything that is not a whole number unchanged."""
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        if value.strip().lstrip("+-").isdigit():
            return value  # omegaconf reads it, to the last digit
    return int(number) if isinstance(number, float) and math.isfinite(number) and number.is_integer() else value


def is_flat(value: Any, declared: Any) -> bool:
    """Whether a list for a field of numbers or texts holds no containers, which omegaconf would accept."""
    kind = kind_of(declared)
    single = get_origin(kind) in (list, tuple) and next(iter(get_args(kind)), Any) in _WORDS
    return not (single and isinstance(value, list) and any(isinstance(item, list | dict) for item in value))


def is_optional(declared: Any) -> bool:
    """Whether a field may be null."""
    return declared is Any or type(None) in get_args(declared)


def allowed(declared: Any, default: Any = None) -> str:
    """What a field takes, to follow "it must be": "a list of whole numbers, such as [1], or null".

    Args:
        default: the field's default, used as the example of a list.
    """
    kind = kind_of(declared)
    text = _allowed(kind)
    if get_origin(kind) in (list, tuple) and isinstance(default, (list, tuple)) and default:
        text += f", such as {str(list(default)).replace(' ', '')}"
    return text + (", or null" if declared is not Any and is_optional(declared) else "")


def _allowed(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind][0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    if origin is list:
        return f"a list of {_WORDS.get(arguments[0], ('', 'values'))[1]}"
    if origin is tuple:
        return f"a list of {len(arguments)} {_WORDS.get(arguments[0], ('', 'values'))[1]}"
    return "a group of keys" if is_dataclass(kind) or dict in (kind, origin) else "a value"


def misfit(key: str, value: Any, declared: Any, default: Any = None) -> str:
    """The error for a value that its field does not take."""
    text = f"{key} is {shown(value)}: it must be {allowed(declared, default)}."
    if isinstance(value, str) and value.count("[") + value.count("(") != value.count("]") + value.count(")"):
        text += " A bracket is not closed."
    elif value == "None":
        text += f" Write {key}=null for no value."
    elif isinstance(value, list) and kind_of(declared) is str:
        text += " Put it in quotes."
    return text


def shown(value: Any) -> str:
    """A value for a message: None as null, as in YAML, and long values cut."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


def from_here(path: Path) -> str:
    """The folder that a relative path is relative to, for a message about a missing path; "" for an absolute path."""
    return "" if path.is_absolute() else f" (relative to {Path.cwd()})"


def leaves(
    values: dict[str, Any], dataclass: type, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, value, declared type) of every value, also in nested dataclasses; an unknown key's type is None."""
    types = get_type_hints(dataclass)
    for key, value in values.items():
        declared = types.get(key)
        kind = kind_of(declared)
        if is_dataclass(kind) and isinstance(value, dict):
            yield from leaves(value, cast(type, kind), (*path, key))
        else:
            yield (*path, key), value, declared


def kind_of(declared: Any) -> Any:
    """The type without its Optional."""
    if get_origin(declared) is not Union:
        return declared
    return next(option for option in get_args(declared) if option is not type(None))


def corpus_metric(name: str) -> str:
    """Return the beginning of the metrics of a corpus of task.multi_corpus_keys; file names can contain it."""
    return re.sub(r"[^\w.-]", "_", name)
