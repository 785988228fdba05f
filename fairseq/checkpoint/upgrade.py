"""Upgrade checkpoints of any fairseq version: configs become plain containers of known keys, weights 3-D.

`io.load` applies it to every file, so no other module has to know about older formats.
"""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from dataclasses import fields
from typing import Any

from torch import Tensor

from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.utils import REGISTRY_GROUPS, config_to_container, convert_namespace_to_omegaconf

logger = logging.getLogger(__name__)

# fairseq: hydra's own settings, saved next to the config groups
_NOT_CONFIG = (("cfg", "hydra"), ("cfg", "job_logging_cfg"))
_RENAMED = {"max_sentences": "batch_size", "max_sentences_valid": "batch_size_valid", "remove_bpe": "post_process"}
_ASKS_A_RESOLVER = re.compile(r"\$\{[^}]*:")


def upgrade(state: dict[str, Any], path: str) -> dict[str, Any]:
    """Upgrade a checkpoint in place, and return it.

    Raises:
        ValueError: a config value would be computed when it is read, such as "${oc.env:HOME}".
    """
    left_out: list[str] = []
    args = state.get("args")
    for key in ("args", "cfg"):
        _refuse_resolvers(state.get(key), path, key)
    if state.get("cfg") is None and isinstance(args, (Namespace, dict)):
        state["cfg"] = _from_arguments(args, left_out)
    if state.get("cfg") is not None:
        state["cfg"] = _config(state["cfg"], left_out)
    if isinstance(args, Namespace):
        state["args"] = None
    if left_out:
        logger.info(f"{path}: ignored settings of another fairseq version: {', '.join(sorted(set(left_out)))}")
    if isinstance(state.get("model"), dict):
        state["model"] = {name: _without_height(tensor) for name, tensor in state["model"].items()}
    _upgrade_optimizer(state)
    _upgrade_statistics(state.get("extra_state"))
    return state


# -- configs -----------------------------------------------------------------------------------------------------------


def _from_arguments(args: Namespace | dict[str, Any], left_out: list[str]) -> dict[str, Any]:
    """Convert old command-line arguments to a config, including those inside `w2v_args`."""
    values = dict(args) if isinstance(args, dict) else dict(vars(args))
    for old, new in _RENAMED.items():
        if old in values:
            values.setdefault(new, values.pop(old))
    if isinstance(values.get("w2v_args"), Namespace):
        values["w2v_args"] = _from_arguments(values["w2v_args"], left_out)
    cfg = config_to_container(convert_namespace_to_omegaconf(values))
    kept = {name for group in cfg.values() if isinstance(group, dict) for name in group} | {"arch", *REGISTRY_GROUPS}
    left_out += [name for name, value in values.items() if name not in kept and value is not None]
    return cfg


def _config(cfg: dict[str, Any] | Namespace, left_out: list[str]) -> dict[str, Any]:
    """Convert a checkpoint's `cfg` to plain groups of known keys; values and missing groups stay as they are.

    Raises:
        TypeError: it is not a config.
    """
    if not isinstance(cfg, (dict, Namespace)):
        raise TypeError(f"a config must be a dict, not {str(cfg)[:40]!r}")
    groups = dict(vars(cfg)) if isinstance(cfg, Namespace) else dict(cfg)
    for _, name in _NOT_CONFIG:
        groups.pop(name, None)
    for name in REGISTRY_GROUPS:
        if groups.get(name) is not None:
            groups[name] = _group(name, groups[name], left_out)
    model, task = groups.get("model"), groups.get("task")
    if isinstance(model, dict) and model.get("w2v_args") is not None:
        inner = model["w2v_args"]
        model["w2v_args"] = (
            _from_arguments(inner, left_out) if isinstance(inner, Namespace) else _config(inner, left_out)
        )
    if isinstance(task, dict) and task.get("_name") == "audio_pretraining" and task.get("labels"):
        task["_name"] = "audio_finetuning"  # fairseq before 0.11 had one task for both
    return groups


def _group(name: str, values: Any, left_out: list[str]) -> Any:
    """Convert one registry group, without the keys that its dataclass does not have."""
    if isinstance(values, Namespace):
        values = dict(vars(values))
        values.setdefault("_name", values.get("arch" if name == "model" else name))
    kind = values.get("_name") if isinstance(values, dict) else None
    dataclass = None if kind is None else CONFIG_GROUPS.get(name, {}).get(kind)
    if dataclass is None:
        return values
    known = {field.name for field in fields(dataclass)}
    left_out += [f"{name}.{key}" for key in values if key not in known]
    return {key: value for key, value in values.items() if key in known}


def _refuse_resolvers(value: Any, path: str, key: str) -> None:
    """Refuse text like "${oc.env:HOME}", which is computed when it is read; "${task.data}", a reference, is allowed."""
    if isinstance(value, (dict, Namespace)):
        for name, item in (vars(value) if isinstance(value, Namespace) else value).items():
            if (key, name) not in _NOT_CONFIG:
                _refuse_resolvers(item, path, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _refuse_resolvers(item, path, f"{key}[{number}]")
    elif isinstance(value, str) and _ASKS_A_RESOLVER.search(value):
        raise ValueError(
            f"{path} was not loaded: its {key} is {value!r}, which would be computed when it is read. Only plain "
            "values and references to other keys are allowed."
        )


# -- tensors -----------------------------------------------------------------------------------------------------------


def _without_height(tensor: Any) -> Any:
    """Convert the Gaudi fork's conv weights, and Adam's averages of them, from C' x C x 1 x K to C' x C x K."""
    return tensor.squeeze(2) if isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.size(2) == 1 else tensor


def _upgrade_optimizer(state: dict[str, Any]) -> None:
    """Move fp16's loss scale from the optimizer's state, where fairseq keeps it, to "precision"."""
    optimizer, extra = state.get("last_optimizer_state"), state.get("extra_state")
    if not isinstance(optimizer, dict):
        return
    for entry in optimizer.get("state", {}).values():
        if not isinstance(entry, dict):  # of a sharded checkpoint, which is never that old
            continue
        entry.update({name: _without_height(value) for name, value in entry.items()})
    scale = optimizer.pop("loss_scale", None)
    if scale is not None and isinstance(extra, dict):
        extra.setdefault("precision", {"scale": float(scale), "good_updates": 0.0})


def _upgrade_statistics(extra: Any) -> None:
    """Drop meters that this version does not update."""
    if not isinstance(extra, dict):
        return
    extra.pop("train_meters", None)  # fairseq before 0.9 pickled the meters themselves
    metrics = extra.get("metrics")
    if isinstance(metrics, dict):  # fairseq logs num_updates as a metric; here each row has it anyway
        extra["metrics"] = {
            name: [meter for meter in meters if meter[1] != "num_updates"] for name, meters in metrics.items()
        }
