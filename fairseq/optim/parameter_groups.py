"""Put parameters into groups of the composite optimizer by name, and scale learning rates by depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn


def mark(cfg: DictConfig, named: Mapping[str, Tensor], model: nn.Module) -> None:
    """Set `param_group` and `optim_overrides`, which the composite optimizer reads, as its config asks.

    Args:
        cfg: the optimizer's config group; another optimizer's is left alone.
        named: name -> the trained parameter that the optimizer gets.
        model: the model that they belong to.
    Raises:
        ValueError: `layer_decay`, but the model has no blocks that it could count.
    """
    if cfg.get("_name") != "composite":
        return
    patterns = {name: re.compile(group.pattern) for name, group in cfg.groups.items() if group.get("pattern")}
    for name, parameter in named.items():
        group = next((group for group, pattern in patterns.items() if pattern.search(name)), None)
        if group is not None:
            vars(parameter)["param_group"] = group
    decay = float(cfg.layer_decay)
    if decay != 1:
        below = blocks_below_the_top(named, model)
        for name, parameter in named.items():
            if below[name] > 0:
                _scale(parameter, decay ** below[name])


def _scale(parameter: Tensor, scale: float) -> None:
    overrides = dict(vars(parameter).get("optim_overrides") or {})
    of_optimizer = dict(overrides.get("optimizer") or {})
    of_optimizer["lr_scale"] = of_optimizer.get("lr_scale", 1.0) * scale
    vars(parameter)["optim_overrides"] = {**overrides, "optimizer": of_optimizer}


def blocks_below_the_top(names: Mapping[str, Any], model: nn.Module) -> dict[str, int]:
    """Return L - i for each parameter, where i is its block, from 1 to L.

    What comes before the blocks (convolutions, projection, positions) has i = 0; what comes after them (the last layer
    norm of pre-norm blocks, output layers) has i = L.

    Raises:
        ValueError: the model has no encoder with a list `layers`, or several.
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(getattr(module, "layers", None), nn.ModuleList) and hasattr(module, "layer_norm_first")
    ]
    if len(found) != 1:
        raise ValueError(
            f"optimizer.layer_decay requires a model with one encoder, with blocks in its list `layers`, but "
            f"{type(model).__name__} has {len(found)}. Set optimizer.layer_decay=1, and groups with a pattern."
        )
    stack = model.get_submodule(found[0])
    layers, pre_norm = stack.layers, stack.layer_norm_first
    assert isinstance(layers, nn.ModuleList)
    place = f"{found[0]}." if found[0] else ""
    whole, _, _ = found[0].rpartition(".")  # the audio model, whose convolutions and projection come first
    owner = model.get_submodule(whole)
    after = getattr(owner, "is_pretraining_only", None)  # its heads come last
    below = {}
    for name in names:
        block = re.match(rf"{re.escape(place)}layers\.(\d+)\.", name)
        inside = name.startswith(f"{whole}." if whole else "") and not (
            callable(after) and after(name.removeprefix(f"{whole}."))
        )
        if block is not None:
            below[name] = len(layers) - 1 - int(block[1])
        elif not inside or (name.startswith(f"{place}layer_norm.") and pre_norm):
            below[name] = 0
        else:
            below[name] = len(layers)
    return below
