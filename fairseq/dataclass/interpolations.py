"""Resolve a config's interpolations (`${optimization.lr}`, `${oc.env:STEPS}`) to plain values."""

from __future__ import annotations

import re
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, Node
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.values import shown

MAX_NODES = 20_000  # values of a config, each counted where it is used; a stock config has 600


_CIRCLE = "which refers to itself"
_NO_KEY = "which refers to a key that this config does not have"
UNRESOLVED = object()  # the value of a field whose interpolation has none


class _Unresolved(Exception):
    """An interpolation that has no value; the message ends the sentence "KEY is '${...}', ..."."""


class _TooMany(Exception):
    """Interpolations expand the config to more than MAX_NODES values."""


def resolve(cfg: DictConfig, problems: list[str]) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """Resolve a config of groups to plain values.

    Args:
        cfg: groups of fields, untyped: an interpolation takes the type of the value that it refers to.
        problems: receives a sentence for each interpolation without a value; its field's value is UNRESOLVED.
    Returns:
        (groups, (group, field) -> the interpolation's text, for every field that has one at any depth).
    Raises:
        ConfigError: interpolations expand the config to more than MAX_NODES values.
    """
    resolver = _Resolver()
    groups: dict[str, Any] = {}
    references: dict[tuple[str, str], str] = {}

    failed: dict[str, tuple[str, str]] = {}

    def look_up(node: DictConfig, key: Any, path: str) -> Any:
        resolver.references = []
        try:
            return resolver.value(node, key)
        except _Unresolved as error:
            failed[path] = resolver.references[-1], str(error)
            return UNRESOLVED
        except _TooMany:
            raise ConfigError(
                [*problems, f"{path}: interpolations expand this config to more than {MAX_NODES:,} values."]
            ) from None

    for group in map(str, cfg):
        node = cfg._get_node(group)
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            groups[group] = look_up(cfg, group, group)
            continue
        groups[group] = {}
        for name in map(str, node):
            groups[group][name] = look_up(node, name, f"{group}.{name}")
            if resolver.references:
                references[group, name] = resolver.references[0]
    for path, (reference, reason) in failed.items():
        if reference.strip("${}") not in failed or _in_circle(path, failed):  # else reported for the other key
            advice = f" Set {path} to a value." if reason == _NO_KEY else ""
            problems.append(f"{path} is {reference!r}, {reason}.{advice}")
    return groups, references


def _in_circle(path: str, failed: dict[str, tuple[str, str]]) -> bool:
    """Whether following a key's references leads back to it."""
    seen: set[str] = set()
    target = path
    while target in failed and target not in seen:
        seen.add(target)
        target = failed[target][0].strip("${}")
    return target == path


class _Resolver:
    """Resolves interpolations; refuses circles, and configs that they expand to more than MAX_NODES values."""

    def __init__(self) -> None:
        self.open: set[int] = set()  # containers whose values are being looked up
        self.nodes = 0
        self.references: list[str] = []  # interpolations met on the way

    def value(self, node: DictConfig | ListConfig, key: Any) -> Any:
        """node[key] as plain containers and values.

        Raises:
            _Unresolved: an interpolation in it has no value.
        """
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _TooMany
        child = cast(Node, node._get_node(key))
        if not child._is_interpolation():
            return self.container(child) if isinstance(child, (DictConfig, ListConfig)) else child._value()
        self.references.append(str(child._value()))
        try:
            value = node[key]
        except InterpolationToMissingValueError:
            return "???"  # not set there, so not set here
        except OmegaConfBaseException as error:
            raise _Unresolved(_reason(error)) from error
        except RecursionError as error:
            raise _Unresolved(_CIRCLE) from error
        if isinstance(value, str) and "${" in value:
            raise _Unresolved(f"which resolves to {shown(value)}: an interpolation inside that text is not resolved")
        return self.container(value) if isinstance(value, (DictConfig, ListConfig)) else value

    def container(self, node: DictConfig | ListConfig) -> Any:
        if node._is_none() or node._is_missing():
            return None if node._is_none() else "???"
        if id(node) in self.open:
            raise _Unresolved("which refers to a group that it is part of")
        self.open.add(id(node))
        try:
            if isinstance(node, ListConfig):
                return [self.value(node, number) for number in range(len(node))]
            return {key: self.value(node, key) for key in node}
        finally:
            self.open.discard(id(node))


def _reason(error: OmegaConfBaseException) -> str:
    """The problem that omegaconf's message describes, as the end of a sentence."""
    text = str(error).strip().splitlines()[0]
    variable = re.search(r"Environment variable '(.*)' not found", text)
    if variable is not None:
        return (
            f"but the environment variable {variable[1]} is not set: set it, or write ${{oc.env:{variable[1]},DEFAULT}}"
        )
    if re.search(r"Interpolation key|Error resolving key|is not a container", text):
        return _NO_KEY
    if re.search(r"[Rr]ecursi|parent node", text):
        return _CIRCLE
    return f"which cannot be read: {text}"
