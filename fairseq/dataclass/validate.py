"""Validate a config: all problems are found before the first file is read, and reported together."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from fairseq import device as device_layer
from fairseq.dataclass import crossing
from fairseq.dataclass.base import ConfigError, FairseqDataclass
from fairseq.dataclass.checks import file_findings_of, findings_of, instance_of
from fairseq.dataclass.findings import Finding, odd, wrong
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.not_offered import NOT_OFFERED, NOT_OFFERED_VALUES, WITHOUT_EFFECT, entry, not_offered
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS, ConfigLike, config_to_container, dataclass_of

_KEY = re.compile(rf"(?<![\w./])(?:{'|'.join((*FIXED_GROUPS, *REGISTRY_GROUPS))})\.\w+")  # in a message


# in the order of the report; docs/preflight.md explains them
TOPICS = (
    "gaudi",
    "single-values",
    "batches",
    "buckets-without-padding",
    "corpora",
    "augmentation",
    "optimisation",
    "schedule",
    "best-checkpoint",
    "probe",
    "checkpoints",
    "conv-layers",
    "wav2vec2-widths",
    "masks",
    "contrast",
    "fine-tuning",
    "wer-args",
    "device",
    "manifests",
    "other-paths",
    "op-lists",
)


class Problems(NamedTuple):
    """Errors, which stop a run, and warnings."""

    errors: list[str]
    warnings: list[str]


def validate_config(
    cfg: DictConfig, devices: int | None = None, recommended: int | None = None, check_paths: bool = True
) -> list[str]:
    """Check a resolved config (`resolve_config`).

    Args:
        devices: processes that this machine supports (None: not checked).
        recommended: processes that it should run, if that differs: 1 on a CPU, since one process uses all its cores.
        check_paths: check that files exist; off for a checkpoint's config.
    Returns:
        Warnings, a sentence or two each.
    Raises:
        ConfigError: all errors, one per line.
    """
    problems = find_problems(cfg, devices, recommended, check_paths)
    if problems.errors:
        raise ConfigError(problems.errors)
    return problems.warnings


def find_problems(
    cfg: DictConfig,
    devices: int | None = None,
    recommended: int | None = None,
    check_paths: bool = True,
    after: Sequence[str] = (),
) -> Problems:
    """Like validate_config, without raising.

    Args:
        after: problems that are already known, from `fairseq.dataclass.initialize.try_resolve`: their keys now have
            defaults, about which nothing is reported.
    """
    problems = Problems([], [])
    for finding in unrelated(find_named(cfg, check_paths), after):
        (problems.errors if finding.stops else problems.warnings).append(finding.text)
    if devices is not None:
        if (missing := device_layer.missing(cfg.common)) is not None:
            problems.errors.append(missing)
        problems.errors.extend(check_devices(cfg, devices, recommended or devices))
    return problems


def find_named(cfg: DictConfig, check_paths: bool = True) -> Iterator[Finding]:
    """Yield all errors and warnings about a resolved config, each with a name; independent of the machine."""
    yield from _missing(cfg)
    yield from _not_offered(cfg)
    found = list(_of_groups(cfg, findings_of))
    for rule in crossing.RULES:
        found += rule(cfg)
    if check_paths:
        found += crossing.manifests(cfg)
        found += _of_groups(cfg, file_findings_of)
    yield from sorted(found, key=_place)


def _of_groups(cfg: DictConfig, rules: Callable[[FairseqDataclass, str], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of the groups' own rules, in the order of the config."""
    for group in cfg:
        values = cfg[group] if not OmegaConf.is_missing(cfg, group) else None
        if isinstance(values, DictConfig):
            dataclass = dataclass_of(str(group), values.get("_name"))
            if dataclass is not None:
                yield from rules(instance_of(dataclass, config_to_container(values)), str(group))


def _place(finding: Finding) -> int:
    """A finding's place in the report: by topic, with the topics of plug-ins last."""
    return TOPICS.index(finding.name) if finding.name in TOPICS else len(TOPICS)


def unrelated(findings: Iterable[Finding], after: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings that mention no key or group named in `after`, whose problems may have caused the others."""
    keys = {key for text in after for key in _KEY.findall(text)}
    groups = {text.split(" ")[0] for text in after}
    for finding in findings:
        spoken_of = _KEY.findall(finding.text) + [finding.text.split(" ")[0]]
        if not any(key in keys or key.split(".")[0] in groups for key in spoken_of):
            yield finding


def _missing(cfg: DictConfig) -> Iterator[Finding]:
    """Yield errors for required groups and keys that are not set."""
    for group in ("task", "model", "criterion", "optimizer"):
        if cfg[group] is None:
            names = ", ".join(sorted(CONFIG_GROUPS.get(group, {})))
            yield wrong(f"{group} is not set: {group}._name must be one of {names}.", "missing")
    for key in OmegaConf.missing_keys(cfg):
        yield wrong(f"{key} is not set and has no default: add {key}=... to the command.", "missing")


def check_devices(cfg: DictConfig, devices: int, recommended: int) -> list[str]:
    """An error, with overrides that fit this machine, if the config has more processes than it has devices."""
    if "WORLD_SIZE" in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        if local <= devices:
            return []
        return [
            f"the launcher started {local} processes on this machine, which supports at most {devices}: use "
            f"--nproc_per_node={recommended}."
        ]
    world = cfg.distributed_training.distributed_world_size
    if world <= devices:
        return []
    frequencies = [max(1, math.ceil(number * world / recommended)) for number in cfg.optimization.update_freq]
    overrides = (
        f"distributed_training.distributed_world_size={recommended} "
        f"optimization.update_freq={str(frequencies).replace(' ', '')}"
    )
    return [
        f"distributed_training.distributed_world_size is {world}, but this machine supports at most {devices}. "
        f"To keep the update size, add: {overrides}"
    ]


def _not_offered(cfg: DictConfig) -> Iterator[Finding]:
    """Yield findings for keys that are not offered or have no effect, if their value is not the default."""
    for group in (*FIXED_GROUPS, *REGISTRY_GROUPS):
        values = cfg[group]
        dataclass = dataclass_of(group, values.get("_name") if isinstance(values, DictConfig) else None)
        if dataclass is None:
            continue
        for name, default in dataclass.field_defaults().items():
            key = f"{group}.{name}"
            value = OmegaConf.select(values, name)
            if entry(key, NOT_OFFERED) is not None and not _is_default(value, default, cfg):
                yield wrong(not_offered(key, value), "not-offered")
            elif key in NOT_OFFERED_VALUES and value in NOT_OFFERED_VALUES[key]:
                yield wrong(
                    f"{key} is {value!r}, which is not offered: {NOT_OFFERED_VALUES[key][value]}.", "not-offered"
                )
            elif (reason := entry(key, WITHOUT_EFFECT)) is not None and not _is_default(value, default, cfg):
                yield odd(f"{key} is {value!r} and has no effect: {reason}.", "no-effect")


def remark_on(key: str) -> str | None:
    """A remark on a key whose feature is not offered or that has no effect; None for other keys."""
    if (alternative := entry(key, NOT_OFFERED)) is not None:
        return f"Not offered: {alternative}."
    reason = entry(key, WITHOUT_EFFECT)
    return None if reason is None else f"Has no effect: {reason}."


def _is_default(value: Any, default: Any, cfg: DictConfig) -> bool:
    """Whether a value is the default; a default that refers to another key is that key's value."""
    if isinstance(default, str) and default.startswith("${"):
        default = OmegaConf.select(cfg, default.strip("${}"))
    if is_dataclass(default):
        default = config_to_container(cast(ConfigLike, default))
    if OmegaConf.is_config(value):
        value = config_to_container(value) if isinstance(value, DictConfig) else OmegaConf.to_container(value)
    return value == default or (value is None and default in ("", False))
