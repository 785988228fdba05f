"""The start of fine-tuning: a checkpoint's encoder and config, overridden by the fine-tuning settings.

Models cannot import the checkpoint reader (a higher floor); the package registers it here.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from fairseq.dataclass.utils import config_to_container, convert_namespace_to_omegaconf, merge_with_parent, plain
from fairseq.masks.selections import parameter_keys
from fairseq.models import kinds
from fairseq.models.wav2vec import tuning
from fairseq.models.wav2vec.asr_config import Wav2Vec2AsrConfig

State = dict[str, Any]
ENCODER, HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."  # prefixes of a fine-tuned model's parameters
PRETRAINING_ONLY = ("quantizer.", "project_q.", "target_glu.", "final_proj.")  # wav2vec 2.0's
ADAPTERS = ("layer_type", "adp_num", "adp_dim", "adp_act_fn", "adp_trf_idx")

# field of a fine-tuning config -> the field of the pre-trained model's config that it replaces
REPLACED = {
    name: name
    for name in (
        "dropout",
        "activation_dropout",
        "dropout_input",
        "attention_dropout",
        "mask_length",
        "mask_prob",
        "mask_selection",
        "mask_other",
        "no_mask_overlap",
        "mask_min_space",
        "require_same_masks",
        "mask_dropout",
        "mask_channel_length",
        "mask_channel_prob",
        "mask_channel_selection",
        "mask_channel_other",
        "no_mask_channel_overlap",
        "mask_channel_min_space",
        "mask_channel_before",
        "feature_grad_mult",
        "checkpoint_activations",
    )
} | {"layerdrop": "encoder_layerdrop"}

_reader: list[Callable[[str], tuple[Any, State]]] = []


def use_reader(read: Callable[[str], tuple[Any, State]]) -> None:
    """Register the checkpoint reader: path -> (config, state), where the state has the weights under "model"."""
    _reader[:] = [read]


class Pretrained(NamedTuple):
    """The parts of a checkpoint that fine-tuning uses."""

    path: str
    w2v_args: dict[str, Any]  # the pre-training config: groups model, task ...
    encoder: dict[str, Tensor]  # parameters under the encoder's own names
    head: dict[str, Tensor] | None  # weight and bias of the output layer, if it was fine-tuned
    symbols: list[str] | None  # the symbol of each row of that layer, if the checkpoint has them


def load(path: str, averaged: bool = False) -> Pretrained:
    """Open a pre-trained or fine-tuned checkpoint through the registered reader.

    Args:
        averaged: use the running average of the weights.
    Raises:
        ValueError: it cannot be read, holds another kind of model, or has no averaged weights.
    """
    assert _reader, "importing fairseq registers the reader"
    return split(path, *_reader[0](path), averaged=averaged)


def split(path: str, cfg: Any, state: State, averaged: bool = False) -> Pretrained:
    """Split a checkpoint into the parts that fine-tuning uses.

    Raises:
        ValueError: as for `load`.
    """
    args = as_container(cfg)
    weights = state["model"]
    if averaged:
        weights = (state.get("extra_state") or {}).get("ema")
        if not weights:
            raise ValueError(
                f"model.load_ema=true, but {path} has no averaged weights. Set model.load_ema=false, or use a "
                "checkpoint written with ema.store_ema=true."
            )
    kind = (args.get("model") or {}).get("_name")
    if kinds.fine_tuned(kind):
        inner = args["model"].get("w2v_args")
        if inner is None:
            raise ValueError(
                f"{path} is a fine-tuned checkpoint without the pre-training config (model.w2v_args). Set "
                "model.w2v_path to another checkpoint."
            )
        weights = tuning.merged(weights, args["model"])
        encoder = {name.removeprefix(ENCODER): tensor for name, tensor in weights.items() if name.startswith(ENCODER)}
        head = {name.removeprefix(HEAD): tensor for name, tensor in weights.items() if name.startswith(HEAD)}
        return Pretrained(path, as_container(inner), encoder, head or None, symbols_of(state))
    if kinds.encoder(kind) is None or args.get("model") is None:
        raise ValueError(
            f"{path} holds a model of kind {kind!r}. Fine-tuning requires one of: {kinds.names(with_fine_tuned=True)}."
        )
    return Pretrained(path, args, dict(weights), None, None)


def settings_of(cfg: Any) -> DictConfig:
    """Convert a fine-tuning config of any form to exactly the fields of Wav2Vec2AsrConfig.

    Missing fields take their defaults; other fields are dropped.
    """
    if isinstance(cfg, (Namespace, dict)):
        cfg = plain(cfg)
        if cfg.get("w2v_args") is not None:
            cfg["w2v_args"] = as_container(cfg["w2v_args"])  # can be a Namespace, which omegaconf cannot hold
    return merge_with_parent(Wav2Vec2AsrConfig(), cfg, remove_missing=True)


def read_start(cfg: DictConfig) -> Pretrained | None:
    """Read the checkpoint to start from; None if `cfg.w2v_args` is set.

    `cfg.w2v_args` becomes the checkpoint's config, overridden by the fine-tuning settings.

    Raises:
        ValueError: `w2v_path` is not set, or as for `load`.
    """
    if cfg.w2v_args is not None:
        return None
    if OmegaConf.is_missing(cfg, "w2v_path") or not cfg.w2v_path:
        raise ValueError("model.w2v_path is not set. Set it to the pre-trained checkpoint to fine-tune.")
    source = load(cfg.w2v_path, averaged=cfg.load_ema)
    keep_w2v_args(cfg, with_fine_tuning(source.w2v_args, cfg))
    return source


def keep_w2v_args(cfg: Any, w2v_args: Mapping[str, Any]) -> None:
    """Store `w2v_args` in a config of any form, so that a checkpoint loads without `w2v_path`."""
    if isinstance(cfg, dict):
        cfg["w2v_args"] = w2v_args
    elif isinstance(cfg, DictConfig):
        with open_dict(cfg):
            cfg.w2v_args = w2v_args
    else:
        cfg.w2v_args = OmegaConf.create(dict(w2v_args))


def symbols_of(state: Mapping[str, Any]) -> list[str] | None:
    task_state = state.get("task_state") or {}
    found = task_state.get("target_symbols") or task_state.get("target_dictionary")
    if found is None:
        return None
    return list(found["symbols"] if isinstance(found, Mapping) else found.symbols)


def as_container(cfg: Any) -> dict[str, Any]:
    """Convert a pre-training config (DictConfig, dict, old command-line arguments) to plain nested values."""
    if isinstance(cfg, Namespace):
        cfg = convert_namespace_to_omegaconf(cfg)
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.create(dict(cfg), flags={"allow_objects": True})
    container = config_to_container(cfg)
    nested = container.get("model")
    if isinstance(nested, dict) and isinstance(nested.get("w2v_args"), Namespace):
        nested["w2v_args"] = as_container(nested["w2v_args"])
    return container


def with_fine_tuning(w2v_args: dict[str, Any], cfg: Any) -> dict[str, Any]:
    """The pre-training config, with masks, dropouts, layerdrop and feature_grad_mult of fine-tuning."""
    values = {theirs: cfg[ours] for ours, theirs in REPLACED.items()} | _adapters(cfg)
    values |= {key: cfg[key] for key in parameter_keys() if key in cfg}
    values = {name: str(value) if name.endswith("_selection") else value for name, value in values.items()}
    return {**w2v_args, "model": {**w2v_args["model"], **values}, "criterion": None, "lr_scheduler": None}


def encoder_args(cfg: DictConfig) -> dict[str, Any]:
    """The pre-training config, `cfg.w2v_args`, with the adapters of the fine-tuning config, if it adds some."""
    args = as_container(cfg.w2v_args)
    return {**args, "model": {**args["model"], **_adapters(cfg)}}


def _adapters(cfg: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: cfg[name] for name in ADAPTERS} if cfg["layer_type"] == "trf_adp" else {}


def normalizes(w2v_args: Mapping[str, Any]) -> bool:
    """Whether pre-training normalized audio to zero mean and unit variance."""
    for group in ("task", "model"):
        value = (w2v_args.get(group) or {}).get("normalize")
        if value is not None:
            return bool(value)
    return False
