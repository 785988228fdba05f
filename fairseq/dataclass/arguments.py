"""Config dataclasses as argparse options, as in fairseq's older commands."""

from __future__ import annotations

import contextlib
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.utils import eval_str_list


def interpret_dc_type(field_type: Any) -> Any:
    """The type of a field's values: X for `Optional[X]`, str for `Any`."""
    if field_type is Any:
        return str
    options = [option for option in get_args(field_type) if option is not type(None)]
    return options[0] if get_origin(field_type) is Union and len(options) == 1 else field_type


def item_type(field_type: Any) -> type | None:
    """The item type of a list or tuple field; None for other fields."""
    wanted = interpret_dc_type(field_type)
    if (get_origin(wanted) or wanted) not in (list, tuple):
        return None
    inner = [option for option in get_args(wanted) if option is not Ellipsis]
    return inner[0] if inner and isinstance(inner[0], type) else str


def option_names(field: Field) -> list[str]:
    """A field's command-line options: its name, and the older name in its metadata (`argparse_alias`)."""
    alias = field.metadata.get("argparse_alias")
    return ["--" + field.name.replace("_", "-"), *([] if alias is None else [alias])]


def default_of(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not NO_DEFAULT else field.default


def gen_parser_from_dataclass(
    parser: ArgumentParser,
    dataclass_instance: FairseqDataclass,
    delete_default: bool = False,
    with_prefix: str | None = None,
) -> None:
    """Add an option to `parser` for every field of a dataclass; existing options are kept.

    Args:
        delete_default: add no defaults, so that the parsed arguments hold only what was typed (with
            `argument_default=SUPPRESS`).
        with_prefix: "--x" turns the field `name` into `--x-name`. Without a prefix, the field `data` is a positional
            argument, and the fields of nested dataclasses are added under their own names.
    """
    types = get_type_hints(type(dataclass_instance))
    for field in fields(dataclass_instance):
        if field.name == "_name":
            continue
        names = ["data"] if field.name == "data" and not with_prefix else option_names(field)
        if with_prefix and names[0].startswith("--"):
            names[0] = f"{with_prefix}-{names[0][2:]}"
        if is_dataclass(types[field.name]):
            gen_parser_from_dataclass(
                parser, types[field.name](), delete_default, None if with_prefix is None else names[0]
            )
            continue
        keywords = _keywords(field, types[field.name], with_prefix)
        default = keywords.get("default")
        if isinstance(default, str) and default.startswith("${"):
            if keywords["help"] is None:
                continue  # the option belongs to the field that this one refers to
            del keywords["default"]
        if delete_default or names == ["data"]:
            keywords.pop("default", None)
        if names == ["data"]:
            keywords.pop("required", None)
        with contextlib.suppress(ArgumentError):  # another group has a field of this name: one option sets both
            parser.add_argument(*names, **keywords)


def _keywords(field: Field, field_type: Any, with_prefix: str | None) -> dict[str, Any]:
    """The keyword arguments of `add_argument` for a field."""
    wanted, default, items = interpret_dc_type(field_type), default_of(field), item_type(field_type)
    help_text = field.metadata.get("help")
    found: dict[str, Any] = {"help": f"{with_prefix[2:]}: {help_text}" if with_prefix and help_text else help_text}
    if default == MISSING:
        found["required"] = True
    else:
        found["default"] = str(default.value) if isinstance(default, Enum) else default
    if wanted is bool:
        found["action"] = "store_false" if default is True else "store_true"
    elif items is not None:
        found["type"] = _list_of(items)
    elif isinstance(wanted, type) and issubclass(wanted, Enum):
        found.update(type=str, choices=[str(choice.value) for choice in wanted])
    else:
        found["type"] = wanted if wanted in (int, float, str) else str
    return found


def _list_of(items: type) -> Callable[[str], Any]:
    return lambda text: eval_str_list(text, items)
