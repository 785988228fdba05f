"""Translate configs between transformers' wav2vec 2.0 models and fairseq."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fairseq.conversion.portable_model import PortableModel, complete_config
from fairseq.frames import parse_conv_layers
from fairseq.models.wav2vec.asr_config import Wav2Vec2CtcConfig
from fairseq.models.wav2vec.config import Wav2Vec2Config

# fairseq's field -> transformers' field, with the same value
_SAME = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layerdrop",
    "dropout_input": "feat_proj_dropout",
    "dropout_features": "feat_quantizer_dropout",
    "conv_bias": "conv_bias",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "mask_prob": "mask_time_prob",
    "mask_length": "mask_time_length",
    "mask_channel_prob": "mask_feature_prob",
    "mask_channel_length": "mask_feature_length",
    "num_negatives": "num_negatives",
    "logit_temp": "contrastive_logits_temperature",
    "latent_vars": "num_codevectors_per_group",
    "latent_groups": "num_codevector_groups",
}
_CONFORMER = {"depthwise_conv_kernel_size": "conv_depthwise_kernel_size"}
_ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "swish": "swish",
    "linear": "linear",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
}
_POSITIONS = {"rel_pos": "relative", "rope": "rotary"}
_WITHOUT_COUNTERPART = ("pos_conv_depth", "quantize_input", "target_glu", "quantizer_depth", "crop_seq_to_multiple")
_LOCAL = ("_name", "w2v_path", "data", "normalize", "ddp_backend")  # not properties of the model
OWN = "fairseq"  # key in their config for settings without a field there, used to convert back


def refuse(source: PortableModel, tool: str) -> None:
    """Check that the other tool's model class can represent a model.

    Raises:
        ValueError: it cannot; the message names every setting that it does not support.
    """
    config, defaults = source.config, Wav2Vec2Config.field_defaults()
    wrong = [f"model.{key}={config[key]!r}" for key in _WITHOUT_COUNTERPART if config[key] != defaults[key]]
    conformer = config["layer_type"] == "conformer"
    if conformer and (
        tool != "transformers" or config["attn_type"] != "espnet" or config["pos_enc_type"] not in _POSITIONS
    ):
        wrong.append(
            f"model.layer_type='conformer' with attn_type={config['attn_type']!r} and "
            f"pos_enc_type={config['pos_enc_type']!r}"
        )
    elif conformer and not config["layer_norm_first"]:
        wrong.append("model.layer_norm_first=False of a conformer: its blocks always end with a layer norm there")
    elif not conformer and config["pos_enc_type"] != "abs":
        wrong.append(f"model.pos_enc_type={config['pos_enc_type']!r} of a transformer")
    if not source.is_fine_tuned and not config["quantize_targets"] and tool == "transformers":
        wrong.append("model.quantize_targets=False: targets there are always quantized")
    if config["activation_fn"] not in (("gelu",) if tool == "torchaudio" else _ACTIVATIONS):
        wrong.append(f"model.activation_fn={config['activation_fn']!r}")
    settings = {} if source.output is None else source.output.settings
    if settings.get("blank_weight", 0) != 0 or settings.get("blank_mode", "add") == "set":
        wrong.append(
            f"model.blank_weight={settings.get('blank_weight')} with blank_mode={settings.get('blank_mode', 'add')}"
        )
    if wrong:
        raise ValueError(f"this model has no counterpart in {tool}: {'; '.join(wrong)}")


def to_huggingface(source: PortableModel) -> dict[str, Any]:
    """Return the fields of transformers' config class.

    Raises:
        ValueError: see `refuse`.
    """
    refuse(source, "transformers")
    config = source.config
    conformer = config["layer_type"] == "conformer"
    layers = parse_conv_layers(config["conv_feature_layers"])
    final_dim = config["final_dim"] or config["encoder_embed_dim"]
    fields = {theirs: config[ours] for ours, theirs in _SAME.items()}
    fields |= {
        "conv_dim": [layer.dim for layer in layers],
        "conv_kernel": [layer.kernel for layer in layers],
        "conv_stride": [layer.stride for layer in layers],
        "num_feat_extract_layers": len(layers),
        "feat_extract_norm": "layer" if config["extractor_mode"] == "layer_norm" else "group",
        "hidden_act": "swish" if conformer else _ACTIVATIONS[config["activation_fn"]],
        "codevector_dim": config["latent_dim"] or final_dim,
        "proj_codevector_dim": final_dim,
        "do_stable_layer_norm": config["layer_norm_first"],
        "apply_spec_augment": True,
    }
    if conformer:
        fields |= {theirs: config[ours] for ours, theirs in _CONFORMER.items()}
        fields |= {
            "position_embeddings_type": _POSITIONS[config["pos_enc_type"]],
            "conformer_conv_dropout": config["dropout"],
        }
    if source.output is not None:
        settings = source.output.settings
        defaults = Wav2Vec2CtcConfig.field_defaults()
        fields |= {
            "final_dropout": settings.get("final_dropout", defaults["final_dropout"]),
            "apply_spec_augment": settings.get("apply_mask", defaults["apply_mask"]),
            "ctc_zero_infinity": True,
        }
    fields[OWN] = _own_settings(source, fields)
    return fields


def _own_settings(source: PortableModel, fields: dict[str, Any]) -> dict[str, Any]:
    """Return settings without a field in transformers that differ from their defaults."""
    defaults = complete_config({})
    mapped = {
        *_SAME,
        *_CONFORMER,
        "conv_feature_layers",
        "extractor_mode",
        "final_dim",
        "latent_dim",
        "layer_norm_first",
        "layer_type",
    }
    own = {key: value for key, value in source.config.items() if key not in mapped and value != defaults[key]}
    if (
        fields["mask_time_prob"] == 0 and fields["mask_feature_prob"] == 0
    ):  # transformers then creates no mask embedding
        fields |= {"mask_time_prob": 0.05, "apply_spec_augment": False}
        own["mask_prob"] = source.config["mask_prob"]
    # kept verbatim: widths of 0 (same as another width), and the spelling of the layers
    for key in ("final_dim", "latent_dim", "conv_feature_layers"):
        own[key] = source.config[key]
    if source.output is None:
        return {"model": own}
    usual = Wav2Vec2CtcConfig.field_defaults()
    settings = {
        key: value for key, value in source.output.settings.items() if key not in _LOCAL and value != usual.get(key)
    }
    return {"model": own, "fine_tuning": settings}


def from_huggingface(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return fairseq's config of a model; `config` is transformers' config.json.

    Raises:
        ValueError: fairseq cannot represent the model, or fields are missing; the message names them.
    """
    conformer = config.get("model_type") == "wav2vec2-conformer"
    _refuse_foreign(config, conformer, path)
    _refuse_incomplete(config, conformer, path)
    own = (config.get(OWN) or {}).get("model", {})
    values = {ours: config[theirs] for ours, theirs in _SAME.items() if theirs in config}
    layers = list(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True))
    spelled = own.pop("conv_feature_layers", None)
    activations = {theirs: ours for ours, theirs in reversed(_ACTIVATIONS.items())}
    values |= {
        "conv_feature_layers": spelled
        if spelled and [tuple(layer) for layer in parse_conv_layers(spelled)] == layers
        else str(layers),
        "extractor_mode": "layer_norm" if config["feat_extract_norm"] == "layer" else "default",
        "final_dim": config.get("proj_codevector_dim", 0),
        "latent_dim": config.get("codevector_dim", 0),
        "layer_norm_first": True if conformer else config["do_stable_layer_norm"],
        "quantize_targets": True,
    }
    if conformer:
        values |= {ours: config[theirs] for ours, theirs in _CONFORMER.items() if theirs in config}
        positions = {theirs: ours for ours, theirs in _POSITIONS.items()}[config["position_embeddings_type"]]
        values |= {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": positions}
    else:
        values["activation_fn"] = activations[config["hidden_act"]]
    return complete_config({**values, **own})


def _refuse_incomplete(config: Mapping[str, Any], conformer: bool, path: str) -> None:
    needed = ["conv_dim", "conv_kernel", "conv_stride", "feat_extract_norm"]
    needed += ["position_embeddings_type"] if conformer else ["do_stable_layer_norm", "hidden_act"]
    missing = [key for key in needed if key not in config]
    if missing:
        raise ValueError(
            f"{path}/config.json lacks {', '.join(missing)}: it is damaged or belongs to another kind of model"
        )
    lengths = [len(config[key]) if isinstance(config[key], list) else None for key in needed[:3]]
    if None in lengths or len(set(lengths)) != 1:
        raise ValueError(f"{path}/config.json: conv_dim, conv_kernel and conv_stride must be lists of the same length")


def _refuse_foreign(config: Mapping[str, Any], conformer: bool, path: str) -> None:
    if config.get("model_type") not in ("wav2vec2", "wav2vec2-conformer"):
        raise ValueError(
            f"{path} has model_type {config.get('model_type')!r}; it must be one of: wav2vec2, wav2vec2-conformer"
        )
    wanted: dict[str, tuple[Any, ...]] = {
        "add_adapter": (False,),
        "adapter_attn_dim": (None,),
        "feat_extract_activation": ("gelu",),
        "layer_norm_eps": (1e-5,),
        "hidden_act": ("swish", "silu") if conformer else tuple(_ACTIVATIONS.values()),
    }
    if conformer:
        wanted |= {"position_embeddings_type": tuple(_POSITIONS.values()), "rotary_embedding_base": (10000,)}
    wrong = [f"{key}={config[key]!r}" for key, values in wanted.items() if key in config and config[key] not in values]
    if wrong:
        raise ValueError(f"{path} has no counterpart in fairseq: {json.dumps(wrong)}")
