"""Complete what hydra composed (YAML, overrides, groups) to the whole config of a run."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq.dataclass import interpolations
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.groups import CONFIG_GROUPS, DEFAULT_NAMES, REGISTERED, current_name, unknown_name
from fairseq.dataclass.utils import (
    FIXED_GROUPS,
    REGISTRY_GROUPS,
    dataclass_of,
    known_only,
    merge_values,
    plain,
    referenced_default,
    suggestion,
)
from fairseq.dataclass.values import kind_of, shown

_NOT_GROUPS = ("hydra", "_name", "job_logging_cfg")  # fairseq: it puts hydra's log settings into a checkpoint's config

_Groups = dict[str, DictConfig | dict[str, Any] | None]


def hydra_init(cfg_name: str = "config") -> None:
    """Put every registered dataclass into hydra's ConfigStore, so that `model=wav2vec2` or `optimizer=adam` select it.

    Args:
        cfg_name: name for the whole FairseqConfig, for programs that compose without a config folder; under "config" it
            would shadow fairseq/config/config.yaml, so that name stores the groups alone.
    """
    from hydra.core.config_store import ConfigStore

    if not OmegaConf.has_resolver("env"):
        # fairseq: YAMLs for old hydra write ${env:PWD}, omegaconf now ${oc.env:PWD}
        OmegaConf.register_new_resolver("env", os.environ.get)
    store = ConfigStore.instance()
    for group, dataclasses in CONFIG_GROUPS.items():
        for name, dataclass in dataclasses.items():
            node = dataclass()
            node._name = name
            store.store(name=name, group=group, node=node, provider="fairseq")
    if cfg_name != "config":
        store.store(name=cfg_name, node=FairseqConfig, provider="fairseq")


def add_defaults(cfg: DictConfig) -> None:
    """Complete every group of `cfg`, in place, from its dataclass; interpolations stay as they are.

    Raises:
        ConfigError: unknown keys, values of the wrong type, unregistered names; all problems together.
    """
    groups, problems = complete(cfg)
    if problems:
        raise ConfigError(problems)
    with open_dict(cfg):
        cfg["_name"] = None
        for group, values in groups.items():
            cfg[group] = values


def resolve_config(cfg: DictConfig | dict[str, Any], remove_missing: bool = False) -> DictConfig:
    """Make the whole config of a run: groups completed, interpolations resolved, plain values, no new keys allowed.

    Mandatory values that are not set stay `???`; `fairseq.dataclass.validate` reports them.

    Args:
        cfg: what hydra composed, or the `cfg` of a checkpoint.
        remove_missing: drop unknown keys (a checkpoint of another version) instead of raising an error.
    Raises:
        ConfigError: as add_defaults, and for interpolations that cannot be resolved.
    """
    resolved, problems = try_resolve(cfg, remove_missing)
    if problems:
        raise ConfigError(problems)
    return resolved


def try_resolve(cfg: DictConfig | dict[str, Any], remove_missing: bool = False) -> tuple[DictConfig, list[str]]:
    """Like resolve_config, but return (what could be resolved, problems)."""
    groups, problems = complete(cfg, remove_missing)
    # untyped, so that each value is looked up unconverted and then converted to the type of the field that refers to it
    untyped = {group: None if values is None else plain(values) for group, values in groups.items()}
    values, references = interpolations.resolve(OmegaConf.create({"_name": None, **untyped}), problems)
    failed: set[str] = set()
    for (group, name), reference in references.items():
        fits, values[group][name] = _looked_up(group, name, values[group], reference, failed, problems)
        if not fits:
            failed.add(f"{group}.{name}")
    resolved = OmegaConf.create(values)
    OmegaConf.set_struct(resolved, True)
    return resolved, problems


def _looked_up(
    group: str, name: str, values: dict[str, Any], reference: str, failed: set[str], problems: list[str]
) -> tuple[bool, Any]:
    """(True, an interpolation's value, converted to its field's type), or (False, the field's default).

    Args:
        failed: keys whose value did not fit; keys that refer to them are not reported again.
    """
    dataclass, value = dataclass_of(group, values.get("_name")), values[name]
    if dataclass is None or name not in dataclass.field_defaults():
        return (False, None) if value is interpolations.UNRESOLVED else (True, value)
    if value is not interpolations.UNRESOLVED:
        if type(value) in (bool, int, float) and kind_of(dataclass.__dataclass_fields__[name].type) is type(value):
            return True, value  # most of them; a merge would only return it
        found: list[str] = []
        merged = merge_values(dataclass(), {name: value}, f"{group}.", found)
        if not found:
            return True, plain(merged)[name]
        if reference.strip("${}") not in failed:
            problems += [text.replace(" is ", f" is {reference!r}, which is ", 1) for text in found]
    default = plain(dataclass())[name]
    return False, referenced_default(default)[1] if isinstance(default, str) and default.startswith("${") else default


def complete(cfg: DictConfig | dict[str, Any], remove_missing: bool = False) -> tuple[_Groups, list[str]]:
    """(all groups, completed from their dataclasses, problems); keys with problems keep their defaults."""
    given = {key: value for key, value in plain(cfg).items() if key not in _NOT_GROUPS}
    known = [*FIXED_GROUPS, *REGISTRY_GROUPS]
    unknown = [] if remove_missing else [key for key in given if key not in known]
    problems = [f"{key} is not a known config group.{_meant(key, given[key], known)}" for key in unknown]
    groups: _Groups = {}
    for group in known:
        value = given.get(group)
        if group in FIXED_GROUPS:
            if value is not None and not isinstance(value, dict):
                problems.append(f"{group} is {shown(value)}: it must be a group of keys.")
                value = None
            value = known_only(FIXED_GROUPS[group], value or {}) if remove_missing else value or {}
            # most groups are not mentioned
            groups[group] = (
                merge_values(FIXED_GROUPS[group](), value, f"{group}.", problems) if value else _defaults(group)
            )
        else:
            groups[group] = _complete_choice(group, value, remove_missing, problems)
    return groups, problems


@cache
def _defaults(group: str) -> DictConfig:
    """The defaults of a group of one dataclass; copy it before changing it."""
    return OmegaConf.structured(FIXED_GROUPS[group]())


def _meant(key: Any, value: Any, known: list[str]) -> str:
    """A hint for an unknown top-level key."""
    hint = suggestion("", key, known)
    if hint:
        return hint
    if isinstance(value, str):
        return f" No config folder has {key}/{value}.yaml: to select it, put it into the folder of --config-dir."
    if isinstance(value, dict):
        return f" If it comes from your own YAML in a folder {key}, start that file with the line: # @package _global_"
    return ""


def _complete_choice(
    group: str, value: Any, remove_missing: bool, problems: list[str]
) -> DictConfig | dict[str, Any] | None:
    """The config of a group whose `_name` selects the dataclass; a plain name means that class with its defaults."""
    default = DEFAULT_NAMES.get(group)
    dataclasses = CONFIG_GROUPS.get(group, {})
    if value is None or value == "???":
        if default not in dataclasses:
            return None
        value = default
    if isinstance(value, str):
        value = {"_name": value}
    if not isinstance(value, dict):
        problems.append(f"{group} is {shown(value)}: it must be a name or a group of keys.")
        return None
    nested = [key for key in value if key in dataclasses and isinstance(value[key], dict)]
    # fairseq: model/wav2vec2/mine.yaml lands in model.wav2vec2, and that names the class
    if nested and not value.get("_name"):
        rest = {key: item for key, item in value.items() if key != nested[0]}
        value = {**value[nested[0]], **rest, "_name": nested[0]}
    name = current_name(group, value) or (default if default in dataclasses else None)
    if name is None:
        problems.append(f"{group}._name is not set. It must be one of: {', '.join(sorted(dataclasses))}.")
        return value
    if not isinstance(name, str):
        problems.append(f"{group}._name is {shown(name)}: it must be one of {', '.join(sorted(dataclasses))}.")
        return None
    if name not in dataclasses:
        if name not in REGISTERED.get(group, {}):
            problems.append(str(unknown_name(f"{group}._name", name, dataclasses)))
        return value  # registered without a dataclass: its keys are not checked
    value = {**(known_only(dataclasses[name], value) if remove_missing else value), "_name": name}
    return merge_values(dataclasses[name](), value, f"{group}.", problems)
