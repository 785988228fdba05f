"""Config groups (model, task, criterion, optimizer ...): the names in each, and the dataclass of each name.

`register_model`, `register_task` and the registries write here; `fairseq.dataclass.initialize` reads it to fill hydra's
ConfigStore and to complete configs. This way importing fairseq does not import hydra.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fairseq.dataclass.base import FairseqDataclass

CONFIG_GROUPS: dict[str, dict[str, type]] = {}
REGISTERED: dict[str, dict[str, type]] = {}  # group -> name -> class, for names that have no dataclass as well
DEFAULT_NAMES: dict[str, str | None] = {}  # group -> the name used if a config has none


def config_group(group: str) -> dict[str, type]:
    """The (name -> dataclass) table of a config group, created on first use."""
    return CONFIG_GROUPS.setdefault(group, {})


def register_dataclass(group: str, name: str, dataclass: type) -> None:
    """Make `dataclass` the config of `name` in `group`, with `_name` set as its instances' own name.

    Raises:
        ValueError: another dataclass has the name in this group, or this is not a FairseqDataclass.
    """
    if not issubclass(dataclass, FairseqDataclass):
        raise ValueError(f"The dataclass of {group} {name!r}, {dataclass.__name__}, must extend FairseqDataclass.")
    known = config_group(group).get(name)
    if known is not None and known is not dataclass:
        raise ValueError(f"The {group} {name!r} already has the dataclass {known.__name__}: choose another name.")
    config_group(group)[name] = dataclass


def current_name(group: str, cfg: Any) -> str | None:
    """The current name for a group's config (its `_name`) or old command-line arguments (`task`, `arch` ...).

    fairseq: fine-tuning was `audio_pretraining` with `labels` before it had a task of its own; older files and configs
    still say so.
    """
    value = cfg.get if hasattr(cfg, "keys") else lambda key: vars(cfg).get(key)
    name = value("_name")
    if name is None and isinstance(cfg, Namespace):
        name = value("arch" if group == "model" else group)
    return "audio_finetuning" if group == "task" and name == "audio_pretraining" and value("labels") else name


def unknown_name(group: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for an unregistered name, with the nearest one and all known names."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"{group} {name!r} is not known.{hint} It must be one of: {', '.join(names) or '(nothing is registered)'}."
    )
