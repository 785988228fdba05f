"""Apply the rules of config dataclasses: limits in field metadata, and the methods `check` and `check_files`.

`fairseq.dataclass.validate` checks all groups of a run; constructors of models, tasks and so on call `refuse`, so each
rule is written once.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.findings import Finding, wrong
from fairseq.dataclass.groups import REGISTERED
from fairseq.dataclass.not_offered import not_offered
from fairseq.dataclass.utils import config_to_container, dataclass_of, plain, referenced_default
from fairseq.dataclass.values import kind_of

Config = TypeVar("Config", bound=FairseqDataclass)
Rules = Callable[[FairseqDataclass], Iterable[Finding]]


def instance_of(dataclass: type[Config], values: Mapping[str, Any]) -> Config:
    """Make an instance with these plain values, including those of nested dataclasses.

    Keys without a field are ignored. `???` and unresolved references keep the field's default.
    """
    types = get_type_hints(dataclass)
    config = dataclass()
    for field in fields(dataclass):
        default = getattr(config, field.name)
        value = values.get(field.name, default)
        if value == "???":
            value = default
        if isinstance(value, str) and value.startswith("${"):
            value = referenced_default(value)[1]
        kind = kind_of(types[field.name])
        if isinstance(kind, type) and issubclass(kind, FairseqDataclass) and isinstance(value, dict):
            value = instance_of(kind, value)
        setattr(config, field.name, value)
    return config


def findings_of(config: FairseqDataclass, path: str) -> Iterator[Finding]:
    """Yield the errors and warnings of a group's own rules (not about files), then those of nested dataclasses.

    Args:
        path: the group's place in the config, such as "task".
    """
    for field in fields(config):
        yield from _limits(field.metadata, f"{path}.{field.name}", getattr(config, field.name))
    yield from _ask(config, FairseqDataclass.check, path)
    for key, nested in _nested(config):
        yield from findings_of(nested, f"{path}.{key}")


def file_findings_of(config: FairseqDataclass, path: str) -> Iterator[Finding]:
    """Like `findings_of`, for the rules about files."""
    yield from _ask(config, FairseqDataclass.check_files, path)
    for key, nested in _nested(config):
        yield from file_findings_of(nested, f"{path}.{key}")


def refuse(cfg: Any, group: str, owner: type | None = None) -> None:
    """Raise ValueError with all errors that a group's own rules find in a constructor's config.

    Of the features that are not offered, only those with `refused` in the field's metadata are errors here: a
    checkpoint of fairseq may have been trained with the others.

    Args:
        cfg: the group as a DictConfig, a dataclass instance, a dict with `_name`, or a Namespace; without a dataclass
            there are no rules.
        group: its place in the config, such as "task".
        owner: the class that is being built; its dataclass is used if `cfg` does not say which it is of.
    """
    dataclass = _dataclass_of(cfg, group, owner)
    if dataclass is None:
        return
    config = instance_of(dataclass, _values_of(cfg))
    defaults = dataclass.field_defaults()
    problems = [
        not_offered(f"{group}.{field.name}", value)
        for field in fields(config)
        if field.metadata.get("refused") and (value := getattr(config, field.name)) != defaults[field.name]
    ]
    problems += [finding.text for finding in findings_of(config, group) if finding.stops]
    if problems:
        raise ValueError("\n".join(problems))


def _limits(metadata: Mapping[str, Any], key: str, value: Any) -> Iterator[Finding]:
    """Check a value against its field's metadata: `at_least` (a number), `share` (True: 0 to 1), `choices` (texts)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "at_least" in metadata and value < metadata["at_least"]:
            yield wrong(f"{key} is {value}: it must be at least {metadata['at_least']}.", "single-values")
        if metadata.get("share") and not 0 <= value <= 1:
            yield wrong(f"{key} is {value}: it must be from 0 to 1.", "single-values")
    if "choices" in metadata and value not in metadata["choices"]:
        choices = ", ".join(metadata["choices"])
        yield wrong(f"{key} is {value!r}: it must be one of {choices}.", "single-values")


def _ask(config: FairseqDataclass, rules: Rules, path: str) -> Iterator[Finding]:
    """Yield a dataclass's findings; those without a name get the name of its group."""
    if rules.__name__ in type(config).__dataclass_fields__:
        return  # a plug-in's field has the method's name
    for finding in getattr(config, rules.__name__)():
        yield finding if finding.name else finding._replace(name=path.partition(".")[0])


def _nested(config: FairseqDataclass) -> Iterator[tuple[str, FairseqDataclass]]:
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, FairseqDataclass):
            yield field.name, value


def _dataclass_of(cfg: Any, group: str, owner: type | None) -> type[FairseqDataclass] | None:
    """The dataclass of a config: its own type, the one registered under its `_name`, or that of the class it is for."""
    own = OmegaConf.get_type(cfg) if isinstance(cfg, DictConfig) else type(cfg)
    if isinstance(own, type) and issubclass(own, FairseqDataclass):
        return own
    values = _values_of(cfg)
    named = dataclass_of(group, values.get("_name"))
    if named is not None or owner is None or not values:
        return named
    names = [name for name, registered in REGISTERED.get(group, {}).items() if registered in owner.__mro__]
    return next((found for name in names if (found := dataclass_of(group, name)) is not None), None)


def _values_of(cfg: Any) -> dict[str, Any]:
    if isinstance(cfg, (DictConfig, FairseqDataclass)):
        return config_to_container(cfg)
    if isinstance(cfg, (dict, Namespace)):
        return plain(cfg)
    return dict(vars(cfg)) if hasattr(cfg, "__dict__") else {}  # a plug-in's constructor may pass on anything, or None
