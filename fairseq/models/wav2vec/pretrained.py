"""What fine-tuning begins with: a checkpoint's encoder and its config, with the settings of fine-tuning put over it.

Models may not import what reads checkpoints (a higher floor); the package registers its reader here.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from fairseq.dataclass.utils import config_to_container, convert_namespace_to_omegaconf, merge_with_parent, plain
from fairseq.masks.selections import parameter_keys
from fairseq.models.wav2vec.asr_config import Wav2Vec2AsrConfig
from fairseq.models.wav2vec.config import Wav2Vec2Config

State = dict[str, Any]
ENCODER, HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."  # prefixes of a fine-tuned model's parameters
PRETRAINING_ONLY = ("quantizer.", "project_q.", "target_glu.", "final_proj.")

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
    """Register what opens checkpoints: path -> (the config inside, the state with "model" and what else it holds)."""
    _reader[:] = [read]


class Pretrained(NamedTuple):
    """A checkpoint, as far as fine-tuning takes it."""

    path: str
    w2v_args: dict[str, Any]  # the pre-training config: groups model, task ...
    encoder: dict[str, Tensor]  # parameters under Wav2Vec2Model's names
    head: dict[str, Tensor] | None  # weight and bias of the output layer, if it was fine-tuned
    symbols: list[str] | None  # what that layer's rows mean, if the checkpoint says so


def load(path: str, averaged: bool = False) -> Pretrained:
    """Open a pre-trained or fine-tuned checkpoint through the registered reader.

    Args:
        averaged: take the running average of its weights.
    Raises:
        ValueError: it cannot be read, is of another kind of model, or holds no average.
    """
    assert _reader, "importing fairseq registers the reader"
    return split(path, *_reader[0](path), averaged=averaged)


def split(path: str, cfg: Any, state: State, averaged: bool = False) -> Pretrained:
    """The parts of a checkpoint that was read.

    Raises:
        ValueError: as `load`.
    """
    args = as_container(cfg)
    weights = state["model"]
    if averaged:
        weights = (state.get("extra_state") or {}).get("ema")
        if not weights:
            raise ValueError(
                f"model.load_ema is true, but {path} holds no averaged weights: it was written without "
                "ema.store_ema=true"
            )
    kind = (args.get("model") or {}).get("_name")
    if kind == "wav2vec_ctc":
        inner = args["model"].get("w2v_args")
        if inner is None:
            raise ValueError(
                f"{path} is fine-tuned and lacks the pre-training config (model.w2v_args): give model.w2v_path "
                "another file"
            )
        encoder = {name.removeprefix(ENCODER): tensor for name, tensor in weights.items() if name.startswith(ENCODER)}
        head = {name.removeprefix(HEAD): tensor for name, tensor in weights.items() if name.startswith(HEAD)}
        return Pretrained(path, as_container(inner), encoder, head or None, symbols_of(state))
    if kind not in ("wav2vec2", None) or args.get("model") is None:
        raise ValueError(f"{path} holds a model of kind {kind!r}: fine-tuning starts from wav2vec2 or wav2vec_ctc")
    return Pretrained(path, args, dict(weights), None, None)


def settings_of(cfg: Any) -> DictConfig:
    """A fine-tuning config of any form with every field of Wav2Vec2AsrConfig: defaults for those it lacks, and none
    of its others.
    """
    if isinstance(cfg, (Namespace, dict)):
        cfg = plain(cfg)
        if cfg.get("w2v_args") is not None:
            cfg["w2v_args"] = as_container(cfg["w2v_args"])  # may be a Namespace, which omegaconf does not hold
    return merge_with_parent(Wav2Vec2AsrConfig(), cfg, remove_missing=True)


def read_start(cfg: DictConfig) -> Pretrained | None:
    """The checkpoint to start from; its config, with fine-tuning's settings put over it, becomes `cfg.w2v_args`. None
    if these are set.

    Raises:
        ValueError: `w2v_path` is not set, or as `load`.
    """
    if cfg.w2v_args is not None:
        return None
    if OmegaConf.is_missing(cfg, "w2v_path") or not cfg.w2v_path:
        raise ValueError("model.w2v_path is not set: it names the pre-trained checkpoint that fine-tuning starts from")
    source = load(cfg.w2v_path, averaged=cfg.load_ema)
    keep_w2v_args(cfg, with_fine_tuning(source.w2v_args, cfg))
    return source


def keep_w2v_args(cfg: Any, w2v_args: Mapping[str, Any]) -> None:
    """Put them into a config of any form, so that a model is built from its own checkpoint without `w2v_path`."""
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
    """A pre-training config of any form (DictConfig, dict, old command-line arguments) as plain nested values."""
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
    """The pre-training config with fine-tuning's masks, dropouts, layerdrop and feature_grad_mult in place of its
    own.
    """
    values = {theirs: cfg[ours] for ours, theirs in REPLACED.items()}
    values |= {key: cfg[key] for key in parameter_keys() if key in cfg}
    values = {name: str(value) if name.endswith("_selection") else value for name, value in values.items()}
    return {**w2v_args, "model": {**w2v_args["model"], **values}, "criterion": None, "lr_scheduler": None}


def model_config(w2v_args: Mapping[str, Any]) -> Wav2Vec2Config | DictConfig:
    """The config of the encoder that a pre-training config describes.

    Raises:
        ValueError: it describes another kind of model.
    """
    model = w2v_args.get("model")
    if model is None or model.get("_name") not in ("wav2vec2", None):
        raise ValueError(
            f"model.w2v_args describes a model of kind {None if model is None else model.get('_name')!r}: it must "
            "be wav2vec2"
        )
    return merge_with_parent(Wav2Vec2Config(), dict(model), remove_missing=True)


def normalizes(w2v_args: Mapping[str, Any]) -> bool:
    """Whether the pre-training had audio of zero mean and unit variance."""
    for group in ("task", "model"):
        value = (w2v_args.get(group) or {}).get("normalize")
        if value is not None:
            return bool(value)
    return False
