"""Merge configs with their dataclasses, turn them into plain containers, compare them."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar, Union, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.values import coerce, is_flat, is_optional, leaves, misfit

T = TypeVar("T")

ConfigLike = Union[DictConfig, FairseqDataclass, Namespace, dict]

# groups of one dataclass each; the other fields of FairseqConfig are registries
FIXED_GROUPS: dict[str, type] = {
    f.name: f.type for f in fields(FairseqConfig) if isinstance(f.type, type) and is_dataclass(f.type)
}
REGISTRY_GROUPS: tuple[str, ...] = tuple(
    f.name for f in fields(FairseqConfig) if f.name not in FIXED_GROUPS and f.name != "_name"
)


def merge_with_parent(dc: FairseqDataclass, cfg: ConfigLike, remove_missing: bool = False) -> DictConfig:
    """Make a config with every field of its dataclass: values from `cfg`, else the defaults of `dc`.

    Interpolations (`${optimization.lr}`) are looked up in the config that `cfg` is part of. If `cfg` is free-standing,
    or that config has no such key, the referenced field's own default is used.

    Args:
        dc: instance of the dataclass; its values are the defaults.
        cfg: a DictConfig (free-standing or part of a whole config), a dict, a dataclass instance, or old command-line
            arguments.
        remove_missing: drop keys that the dataclass does not have (settings of another version) instead of raising.
    Raises:
        ValueError: keys that the dataclass does not have (with the nearest one) and values of the wrong type, all
            together.
    """
    values, parent = plain(cfg), None
    if isinstance(cfg, DictConfig):
        parent = cfg._get_parent()
    if remove_missing:
        values = known_only(type(dc), values)
    problems: list[str] = []
    merged = merge_values(dc, values, "", problems)
    if problems:
        raise ValueError(f"{type(dc).__name__}: " + "; ".join(problems))
    merged._set_parent(parent)
    fill_unresolved(merged)
    OmegaConf.set_struct(merged, True)
    return merged


def plain(cfg: ConfigLike) -> dict[str, Any]:
    """A config as a dict of plain values: interpolations and `???` are kept, enums become strings."""
    if is_dataclass(cfg):
        cfg = OmegaConf.structured(cfg)
    if isinstance(cfg, DictConfig):
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    if isinstance(cfg, Namespace):  # argparse sets None for options that were not typed
        return {key: value for key, value in vars(cfg).items() if value is not None}
    return dict(cast(dict[str, Any], cfg))


def known_only(dataclass: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values whose keys are fields of the dataclass; the text "None" becomes null, as in old files."""
    types = get_type_hints(dataclass)
    return {
        key: None if value == "None" and is_optional(types[key]) else value
        for key, value in values.items()
        if key in types
    }


def nearest(key: str, known: Any) -> str:
    """ " Did you mean 'x'?" for the known key that is spelled most like this one, or nothing."""
    near = get_close_matches(str(key), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def homes_of(name: str) -> list[str]:
    """group.name of each field of this name, except those that only refer to another group's field."""
    homes = []
    for group in (*FIXED_GROUPS, *REGISTRY_GROUPS):
        defaults = [
            dataclass.field_defaults()[name]
            for dataclass in dataclasses_of(group)
            if name in dataclass.field_defaults()
        ]
        if any(not (isinstance(default, str) and default.startswith("${")) for default in defaults):
            homes.append(f"{group}.{name}")
    return homes


def dataclasses_of(group: str) -> list[type[FairseqDataclass]]:
    """The possible dataclasses of a group."""
    return [FIXED_GROUPS[group]] if group in FIXED_GROUPS else list(CONFIG_GROUPS.get(group, {}).values())


def dataclass_of(group: str, name: Any) -> type[FairseqDataclass] | None:
    """The dataclass of a group; `name` is its `_name`, which selects one if a group has several."""
    return FIXED_GROUPS.get(group) or (CONFIG_GROUPS.get(group, {}).get(name) if isinstance(name, str) else None)


def suggestion(group: str, key: Any, known: Iterable[str]) -> str:
    """A hint for a key that a group ("": the config itself) does not have.

    It names another class of the group that has the key, a field of that name elsewhere, or a key of similar spelling.
    """
    owners = [name for name, dataclass in CONFIG_GROUPS.get(group, {}).items() if key in dataclass.__dataclass_fields__]
    if owners:
        return f" It belongs to {group} {' and '.join(owners[:3])}."
    homes = homes_of(str(key))
    return f" Did you mean {' or '.join(map(repr, homes[:3]))}?" if homes else nearest(key, known)


def merge_values(dc: FairseqDataclass, values: dict[str, Any], path: str, problems: list[str]) -> DictConfig:
    """Merge `values` into the dataclass; values that do not fit are left out and described in `problems`.

    Args:
        path: prefix of the keys in messages, such as "model."
    """
    names = [f.name for f in fields(dc)]
    types = get_type_hints(type(dc))
    good = {}
    for key, value in values.items():
        if key not in names:
            problems.append(f"{path}{key} is not a known key.{suggestion(path.rstrip('.'), key, names)}")
            continue
        form = coerce(value, types[key])
        if (value == "None" and is_optional(types[key])) or not is_flat(form, types[key]):
            problems.append(misfit(path + key, value, types[key], dc.field_defaults()[key]))
        else:
            good[key] = form
    try:
        # unsafe_merge changes its first argument instead of copying it: half the time
        return cast(DictConfig, OmegaConf.unsafe_merge(OmegaConf.structured(dc), good))
    except (OmegaConfBaseException, ValueError, TypeError):
        return _merge_one_by_one(OmegaConf.structured(dc), dc, good, path, problems)


def _merge_one_by_one(
    base: DictConfig, dc: FairseqDataclass, values: dict[str, Any], path: str, problems: list[str]
) -> DictConfig:
    for keys, value, declared in leaves(values, type(dc)):
        part: Any = value
        for key in reversed(keys):
            part = {key: part}
        try:
            base = cast(DictConfig, OmegaConf.merge(base, part))
        except (OmegaConfBaseException, ValueError, TypeError):
            key = path + ".".join(map(str, keys))
            if declared is None:
                problems.append(f"{key} is not a known key.")
            else:
                problems.append(
                    misfit(key, value, declared, dc.field_defaults().get(keys[0]) if len(keys) == 1 else None)
                )
    return base


def fill_unresolved(cfg: DictConfig) -> None:
    """Replace, in place, unresolvable interpolations by the default of the field that they refer to."""
    for key in list(cfg):
        if not OmegaConf.is_interpolation(cfg, key):
            child = cfg._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                fill_unresolved(child)
            continue
        try:
            if not OmegaConf.is_missing(cfg, key):
                cfg[key]  # pyright: ignore[reportUnusedExpression] - looks the reference up
        except OmegaConfBaseException:
            reference = cast(dict[Any, Any], OmegaConf.to_container(cfg, resolve=False))[key]
            found, default = referenced_default(reference)
            if found:
                cfg[key] = default


def referenced_default(reference: str) -> tuple[bool, Any]:
    """(whether there is one, default) of the field that "${group.field}" names; references are followed."""
    group, dot, name = reference.strip("${}").partition(".")
    for dataclass in dataclasses_of(group):
        defaults = dataclass.field_defaults()
        if dot and name in defaults:
            default = defaults[name]
            return (
                referenced_default(default)
                if isinstance(default, str) and default.startswith("${")
                else (True, default)
            )
    return False, None


def config_to_container(cfg: ConfigLike) -> dict[str, Any]:
    """A config as nested dicts, lists, strings, numbers, bools and None, with interpolations resolved.

    Free-standing configs keep unresolvable interpolations as text; unset mandatory values stay "???".
    """
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.structured(cfg) if is_dataclass(cfg) else OmegaConf.create(cast(dict[str, Any], cfg))
    try:
        container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException:
        container = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    return _plain_values(container)


def _plain_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_values(item) for item in value]
    return str(value.value) if isinstance(value, Enum) else value


def config_diff(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every value that differs, in key order; None for an absent key."""
    before, after = dict(_flat(_plain_values(old))), dict(_flat(_plain_values(new)))
    keys = list(before) + [key for key in after if key not in before]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _flat(cfg: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def convert_namespace_to_omegaconf(args: Namespace | dict[str, Any]) -> DictConfig:
    """Convert old command-line arguments (fairseq before 0.11, and its oldest checkpoints) to a config.

    Every argument goes to the fields of its name; `arch`, `task`, `criterion`, `optimizer` and `lr_scheduler` name the
    classes. Arguments without a field are dropped: command lines carried those of every imported module. A class
    without a dataclass here gets all arguments.

    Raises:
        ValueError: values of the wrong type, all together.
    """
    values = {
        key: value for key, value in (args if isinstance(args, dict) else vars(args)).items() if value is not None
    }
    problems: list[str] = []
    config: dict[str, Any] = {"_name": None}
    for group, dataclass in FIXED_GROUPS.items():
        config[group] = merge_values(dataclass(), known_only(dataclass, values), f"{group}.", problems)
    for group in REGISTRY_GROUPS:
        name = values.get("arch" if group == "model" else group)
        if name in CONFIG_GROUPS.get(group, {}):
            dataclass = CONFIG_GROUPS[group][name]
            config[group] = merge_values(
                dataclass(), {**known_only(dataclass, values), "_name": name}, f"{group}.", problems
            )
        else:
            config[group] = None if name is None else {**values, "_name": name}
    if problems:
        raise ValueError("Old command-line arguments: " + "; ".join(problems))
    cfg = OmegaConf.create(config)
    OmegaConf.set_struct(cfg, True)
    return cfg


def overwrite_args_by_name(cfg: DictConfig, overrides: dict[str, Any]) -> None:
    """Set, in place, every key named in `overrides`, in any group; a dict applies inside the group of its name."""
    OmegaConf.set_struct(cfg, False)
    for key in list(cfg):
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            inner = overrides.get(key)
            overwrite_args_by_name(cfg[key], inner if isinstance(inner, dict) else overrides)
        elif key in overrides:
            cfg[key] = overrides[key]
    OmegaConf.set_struct(cfg, True)


def eval_str_list(text: Any, type: Callable[[Any], T] = float) -> list[T] | None:
    """A list from a list or a literal such as `[0.9,0.98]`, `(1,2)` or `5`, which is never run; None stays None."""
    if text is None:
        return None
    value = ast.literal_eval(text) if isinstance(text, str) else text
    return [type(item) for item in value] if isinstance(value, Iterable) else [type(value)]
