"""Compare the model and task config of a checkpoint with the command's (decision 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq.dataclass.groups import config_group
from fairseq.dataclass.utils import config_diff, config_to_container, merge_with_parent
from fairseq.models import kinds

Difference = tuple[str, Any, Any]

COMPARED = ("model", "task")


def differences(saved: dict[str, Any] | None, cfg: Any, same_data: bool) -> list[Difference]:
    """List (key, value in the checkpoint, value now) for every setting of model and task that differs.

    Args:
        saved: the checkpoint's `cfg`; groups that it lacks are not compared.
        cfg: the command's whole config.
        same_data: both manifests list the same files, so their folders may differ.
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
    # not w2v_path: its content is compared, as w2v_args
    moved = {"model.w2v_path", "task.cache_dir", "task.cache_gb"}
    moved.update(("task.data", "model.data") if same_data else ())
    return [difference for difference in found if difference[0] not in moved]


def _completed(group: str, saved: dict[str, Any]) -> dict[str, Any]:
    """Fill a saved group with the defaults of newer fields, and drop fields that no longer exist."""
    dataclass = config_group(group).get(saved.get("_name", ""))
    if dataclass is None:
        return saved
    try:
        return {
            **config_to_container(merge_with_parent(dataclass(), saved, remove_missing=True)),
            "_name": saved["_name"],
        }
    except ValueError:  # values with types of an older version: compare them unchanged
        return saved


def same_data(saved: Any, now: Any) -> bool | None:
    """Whether the splits in both fingerprints list the same files; None if they have no split in common."""
    if not isinstance(saved, dict) or not isinstance(now, dict):
        return None if saved is None or now is None else saved == now
    common = saved.keys() & now.keys()
    return all(saved[split] == now[split] for split in common) if common else None


class WeightsDoNotFit(ValueError, RuntimeError):
    """A checkpoint's weights belong to another model; the message lists tensors. (fairseq: torch's RuntimeError.)"""


def unlike(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Describe the first tensors whose names or shapes differ between checkpoint and model, and count the rest."""
    found = [f"{name} is missing" for name in own if name not in weights] + [
        f"{name} is unexpected" for name in weights if name not in own
    ]
    shapes = {name: (tuple(tensor.shape), tuple(own[name].shape)) for name, tensor in weights.items() if name in own}
    found = [f"{name} is {one}, not {other}" for name, (one, other) in shapes.items() if one != other] + found
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def misfit(path: str, note: str, saved: dict[str, Any] | None, cfg: Any, tensors: str) -> str:
    """Write the error for weights that do not fit: both models, the first tensors, and what to set.

    Args:
        note: the setting that selected this file, such as "from checkpoint.finetune_from_model"; "" if none.
        saved: the checkpoint's `cfg`.
        tensors: the result of `unlike`.
    """
    there, here = _model(saved), _model(cfg)
    differing = [
        (key, before) for key, before, _ in differences(saved, cfg, same_data=True) if key.rpartition(".")[2] in _SHAPES
    ]
    kind_there, kind_here = there.get("_name"), here.get("_name")
    if kinds.fine_tuned(kind_there) and kind_here in kinds.encoders():
        advice = "It is fine-tuned: resume from the pre-trained checkpoint, or fine-tune this one with model.w2v_path"
    elif kind_there in kinds.encoders() and kinds.fine_tuned(kind_here):
        advice = "It is only pre-trained: set model.w2v_path to it"
    elif any(key.startswith("model.w2v_args.") for key, _ in differing):
        advice = "Set model.w2v_path to a model of the same size as in the checkpoint"
    elif differing and there.get("_name") == here.get("_name"):
        advice = "Set " + " ".join(_override(*pair) for pair in differing) + " as in it, or use another checkpoint"
    else:
        advice = "Use a checkpoint of the config's model"
    file = f"{path} ({note})" if note else path
    return (
        f"{file} does not fit: it holds {_described(there)}, the config asks for {_described(here)} ({tensors}). "
        f"{advice}."
    )


_SHAPES = frozenset(
    {
        "conv_bias",
        "conv_feature_layers",
        "conv_pos",
        "conv_pos_groups",
        "pos_conv_depth",
        "depthwise_conv_kernel_size",
        "layer_type",
        "attn_type",
        "pos_enc_type",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_layers",
        "encoder_attention_heads",
        "extractor_mode",
        "final_dim",
        "latent_dim",
        "latent_groups",
        "latent_vars",
        "layer_norm_first",
        "quantize_targets",
        "quantize_input",
        "quantizer_depth",
        "quantizer_factor",
        "same_quantizer",
        "target_glu",
    }
)


def _model(cfg: Any) -> dict[str, Any]:
    """Return the model group of a config as plain values."""
    group = None if cfg is None else cfg.get("model")
    return {} if group is None else config_to_container(group)


def _override(key: str, value: Any) -> str:
    """Write an override as it is typed, with quotes for the shell and for Hydra."""
    return f"{key}={value}" if str(value).replace(".", "").replace("_", "").isalnum() else f"\"{key}='{value}'\""


def _described(model: dict[str, Any]) -> str:
    inner = (model.get("w2v_args") or {}).get("model") or model
    size = f" of width {inner['encoder_embed_dim']}" if inner.get("encoder_embed_dim") else ""
    blocks = f" with {inner['encoder_layers']} blocks" if inner.get("encoder_layers") else ""
    return f"a {model.get('_name') or 'model of unknown type'}{size}{blocks}"


def listing(found: list[Difference]) -> str:
    return "; ".join(f"{key}: {before!r} -> {now!r}" for key, before, now in found)


def refusal(path: str, found: list[Difference]) -> str:
    """Write the error for a run whose own checkpoint has another model or task config."""
    return (
        f"{path} was written by this run with another config (checkpoint -> command): {listing(found)}. "
        "Restore these values; or start a new run with checkpoint.save_dir=<another folder>, and load this file's "
        "weights with checkpoint.restore_file or checkpoint.finetune_from_model; or keep only the weights: set "
        "checkpoint.reset_optimizer, reset_lr_scheduler, reset_meters and reset_dataloader to true."
    )
