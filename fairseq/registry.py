"""Registries of named classes (criterion, optimizer, lr_scheduler ...) and of the dataclasses that configure them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, TypeVar

from omegaconf import DictConfig

from fairseq.dataclass.groups import (
    DEFAULT_NAMES,
    REGISTERED,
    config_group,
    current_name,
    register_dataclass,
    unknown_name,
)
from fairseq.dataclass.utils import merge_with_parent

Registered = TypeVar("Registered", bound=type)

REGISTRIES: dict[str, dict[str, Any]] = {}


def setup_registry(
    registry_name: str, base_class: type | None = None, default: str | None = None, required: bool = False
) -> tuple[Callable[..., Any], Callable[..., Callable[[Registered], Registered]], dict[str, type], dict[str, type]]:
    """Make a registry, with the interface that fairseq's plug-ins use.

    Args:
        registry_name: "--optimizer", "--lr-scheduler" ...; with underscores for dashes, it names the config group.
        base_class: what every registered class must extend.
        default: the name used if a config has none.
        required: raise an error for a config without a name (else `build_x` returns None).
    Returns:
        build_x(cfg, *args, **kwargs), register_x(name, dataclass=None), name -> class, name -> dataclass.
    """
    if not registry_name.startswith("--"):
        raise ValueError(f"The registry name {registry_name!r} must start with --, as in fairseq.")
    group = registry_name[2:].replace("-", "_")
    if group in REGISTRIES:
        raise ValueError(f"The registry {registry_name} already exists.")
    classes: dict[str, type] = {}
    dataclasses = config_group(group)
    REGISTERED[group], DEFAULT_NAMES[group] = classes, default
    REGISTRIES[group] = {"registry": classes, "default": default, "dataclass_registry": dataclasses}

    def build_x(cfg: DictConfig | Namespace | str | None, *extra_args: Any, **extra_kwargs: Any) -> Any:
        choice, cfg = _choice(cfg, group, default, dataclasses)
        if choice is None:
            if required:
                raise ValueError(f"{group} is not set. It must be one of: {', '.join(sorted(classes))}.")
            return None
        if choice not in classes:
            raise unknown_name(group, choice, classes)
        cls = classes[choice]
        # fairseq: a class may have its own builder, such as build_criterion
        build = getattr(cls, f"build_{group}", cls)
        return build(cfg, *extra_args, **extra_kwargs)

    def register_x(name: str, dataclass: type | None = None) -> Callable[[Registered], Registered]:
        def register(cls: Registered) -> Registered:
            if name in classes:
                raise ValueError(f"The {group} {name!r} is already registered ({classes[name].__name__}).")
            if base_class is not None and not issubclass(cls, base_class):
                raise ValueError(f"The {group} {name!r}, {cls.__name__}, must extend {base_class.__name__}.")
            if dataclass is not None:
                register_dataclass(group, name, dataclass)
            classes[name] = cls
            return cls

        return register

    return build_x, register_x, classes, dataclasses


def _choice(
    cfg: DictConfig | Namespace | str | None, group: str, default: str | None, dataclasses: dict[str, type]
) -> tuple[str | None, Any]:
    """(name, config) of a group's config: a DictConfig or dataclass with `_name`, a name, or old arguments."""
    if cfg is None:
        cfg = default
    if isinstance(cfg, str):
        return cfg, (dataclasses[cfg]() if cfg in dataclasses else cfg)
    if cfg is None:
        return None, None
    arguments = isinstance(cfg, Namespace)
    choice = (current_name(group, cfg) or default) if arguments else cfg._name
    if choice in dataclasses:
        # old arguments hold the keys of all groups
        cfg = merge_with_parent(dataclasses[choice](), cfg, remove_missing=arguments)
    return choice, cfg
