"""Translate configs between transformers' models and fairseq; `hf_kinds` has the tables."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fairseq.conversion import hf_kinds
from fairseq.conversion.hf_kinds import Kind
from fairseq.conversion.portable_model import PortableModel, complete_config
from fairseq.frames import parse_conv_layers
from fairseq.models.wav2vec.asr_config import Wav2Vec2CtcConfig

_LOCAL = ("_name", "w2v_path", "data", "normalize", "ddp_backend")  # not properties of the model
_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")
OWN = "fairseq"  # key in their config for settings without a field there, used to convert back


def refuse(source: PortableModel, tool: str, only: Mapping[str, Collection[Any]], described: str = "") -> None:
    """Check that another tool's model class can represent a model.

    Args:
        only: setting -> the values that the class can represent.
        described: what kind of model it is, added to each setting in the message.
    Raises:
        ValueError: it cannot; the message names every setting that it does not support.
    """
    wrong = [
        f"model.{key}={source.config[key]!r}{described}"
        for key, values in only.items()
        # only the heads of pre-training need quantized targets
        if key in source.config
        and source.config[key] not in values
        and not (key == "quantize_targets" and source.is_fine_tuned)
    ]
    settings = {} if source.output is None else source.output.settings
    if settings.get("blank_weight", 0) != 0 or settings.get("blank_mode", "add") == "set":
        wrong.append(
            f"model.blank_weight={settings.get('blank_weight')} with blank_mode={settings.get('blank_mode', 'add')}"
        )
    if wrong:
        raise ValueError(f"this model has no counterpart in {tool}: {'; '.join(wrong)}")


def kind_of(source: PortableModel) -> Kind:
    """Return the kind of a model in transformers.

    Raises:
        ValueError: transformers has no class for it; the message names the settings.
    """
    kind = hf_kinds.of_ours(source.config)
    if kind is None:
        config = source.config
        raise ValueError(
            f"this model has no counterpart in transformers: model._name={config['_name']!r} with "
            f"layer_type={config['layer_type']!r}"
        )
    refuse(source, "transformers", kind.only, kind.described())
    return kind


def to_huggingface(source: PortableModel) -> dict[str, Any]:
    """Return the fields of transformers' config class.

    Raises:
        ValueError: see `kind_of`.
    """
    kind = kind_of(source)
    config = source.config
    layers = parse_conv_layers(config["conv_feature_layers"])
    fields: dict[str, Any] = {key: values[0] for key, values in kind.theirs_only.items() if values[0] is not None}
    for field in kind.fields:
        value = config[field.ours]
        fields[field.theirs] = value if field.values is None else field.values[value]
    for group in kind.groups:
        fields |= group.there(config)
    fields |= {
        "conv_dim": [layer.dim for layer in layers],
        "conv_kernel": [layer.kernel for layer in layers],
        "conv_stride": [layer.stride for layer in layers],
        "num_feat_extract_layers": len(layers),
        "apply_spec_augment": True,
    }
    if source.output is not None:
        settings = source.output.settings
        defaults = Wav2Vec2CtcConfig.field_defaults()
        fields |= {
            "final_dropout": settings.get("final_dropout", defaults["final_dropout"]),
            "apply_spec_augment": settings.get("apply_mask", defaults["apply_mask"]),
            "ctc_zero_infinity": True,
        }
    fields[OWN] = _own_settings(source, kind, fields)
    return fields


def _own_settings(source: PortableModel, kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """Return settings without a field in transformers that differ from their defaults."""
    defaults = complete_config({"_name": kind.ours["_name"]})
    mapped = {field.ours for field in kind.fields} | {"extractor_mode", "layer_norm_first", *kind.ours}
    own = {key: value for key, value in source.config.items() if key not in mapped and value != defaults[key]}
    if (
        fields["mask_time_prob"] == 0 and fields["mask_feature_prob"] == 0
    ):  # transformers then creates no mask embedding
        fields |= {"mask_time_prob": 0.05, "apply_spec_augment": False}
        own["mask_prob"] = source.config["mask_prob"]
    # kept verbatim: widths of 0 (same as another width), kernels that are rounded, and the spelling of the layers
    for key in ("conv_feature_layers", *(key for group in kind.groups for key in group.ours)):
        own[key] = source.config[key]
    if source.output is None:
        return {"model": own}
    usual = Wav2Vec2CtcConfig.field_defaults()
    settings = {
        key: value for key, value in source.output.settings.items() if key not in _LOCAL and value != usual.get(key)
    }
    return {"model": own, "fine_tuning": settings}


def from_huggingface(config: Mapping[str, Any], path: str) -> tuple[Kind, dict[str, Any]]:
    """Return the kind of a model and fairseq's config; `config` is transformers' config.json.

    Raises:
        ValueError: fairseq cannot represent the model, or fields are missing; the message names them.
    """
    kind = hf_kinds.of_theirs(config)
    if kind is None:
        known = ", ".join(dict.fromkeys(kind.model_type for kind in hf_kinds.KINDS))
        raise ValueError(f"{path} has model_type {config.get('model_type')!r}; it must be one of: {known}")
    _refuse_foreign(config, kind, path)
    _refuse_incomplete(config, kind, path)
    own = (config.get(OWN) or {}).get("model", {})
    values = {key: next(iter(allowed)) for key, allowed in kind.only.items() if len(allowed) == 1} | kind.ours
    for field in kind.fields:
        if field.theirs in config:
            value = config[field.theirs]
            values[field.ours] = value if field.values is None else field.back()[value]
    for group in kind.groups:
        values |= group.back(config)
    layers = list(zip(*(config[key] for key in _CONVOLUTIONS), strict=True))
    spelled = own.pop("conv_feature_layers", None)
    is_same = spelled and [tuple(layer) for layer in parse_conv_layers(spelled)] == layers
    values["conv_feature_layers"] = spelled if is_same else str(layers)
    return kind, complete_config({**values, **own})


def _refuse_incomplete(config: Mapping[str, Any], kind: Kind, path: str) -> None:
    needed = [*_CONVOLUTIONS, *(field.theirs for field in kind.fields if field.needed)]
    missing = [key for key in needed if key not in config]
    if missing:
        raise ValueError(
            f"{path}/config.json lacks {', '.join(missing)}: it is damaged or belongs to another kind of model"
        )
    lengths = [len(config[key]) if isinstance(config[key], list) else None for key in _CONVOLUTIONS]
    if None in lengths or len(set(lengths)) != 1:
        raise ValueError(f"{path}/config.json: conv_dim, conv_kernel and conv_stride must be lists of the same length")


def _refuse_foreign(config: Mapping[str, Any], kind: Kind, path: str) -> None:
    wanted: dict[str, Collection[Any]] = {
        field.theirs: list(field.values.values()) for field in kind.fields if field.values is not None
    }
    wanted.update(kind.theirs_only)
    for field in kind.fields:  # such as pre-norm blocks, the only ones that have adapters
        if field.ours in kind.only and field.values is None:
            wanted[field.theirs] = kind.only[field.ours]
    wrong = [f"{key}={config[key]!r}" for key, values in wanted.items() if key in config and config[key] not in values]
    if wrong:
        raise ValueError(f"{path} has no counterpart in fairseq: {json.dumps(wrong)}")
