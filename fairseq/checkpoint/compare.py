"""How the model's and the task's config of a checkpoint differ from the command's (decision 6)."""

from __future__ import annotations

from typing import Any

from fairseq.dataclass.groups import config_group
from fairseq.dataclass.utils import config_diff, config_to_container, merge_with_parent

Difference = tuple[str, Any, Any]

COMPARED = ("model", "task")


def differences(saved: dict[str, Any] | None, cfg: Any, same_data: bool) -> list[Difference]:
    """(key, value in the checkpoint, value now) for every setting of model and task that differs.

    Args:
        saved: the checkpoint's `cfg`; groups that it lacks are not compared.
        cfg: the command's whole config.
        same_data: both manifests list the same, so that their folder may differ.
    """
    found: list[Difference] = []
    for group in COMPARED:
        old = (saved or {}).get(group)
        if old is None or cfg[group] is None:
            continue
        old, new = config_to_container(old), config_to_container(cfg[group])
        if old.get("_name") != new.get("_name"):
            found.append((f"{group}._name", old.get("_name"), new.get("_name")))
            continue
        found += [(f"{group}.{key}", before, now) for key, before, now in config_diff(_completed(group, old), new)]
    moved = {"model.w2v_path", *(("task.data", "model.data") if same_data else ())}  # what w2v_path held is compared: w2v_args
    return [difference for difference in found if difference[0] not in moved]


def _completed(group: str, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved group with the fields that were added since at their defaults, and without those that are gone."""
    dataclass = config_group(group).get(saved.get("_name", ""))
    if dataclass is None:
        return saved
    try:
        return {**config_to_container(merge_with_parent(dataclass(), saved, remove_missing=True)), "_name": saved["_name"]}
    except ValueError:  # values of another generation's types: compare them as they are
        return saved


def listing(found: list[Difference]) -> str:
    return "; ".join(f"{key}: {before!r} -> {now!r}" for key, before, now in found)


def refusal(path: str, found: list[Difference]) -> str:
    """The error of a run whose own checkpoint was trained with another model or task config."""
    return (
        f"{path} was written by this run with another config (checkpoint -> command): {listing(found)}. "
        "Either put these values back; or begin a new run with checkpoint.save_dir=<another folder>, to which checkpoint.restore_file or "
        "checkpoint.finetune_from_model can give this file's weights; or set all of checkpoint.reset_optimizer, reset_lr_scheduler, "
        "reset_meters and reset_dataloader to true to keep only the weights here."
    )
