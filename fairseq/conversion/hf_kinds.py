"""The kinds of models that transformers has a class for: one entry of `KINDS` each.

An entry says how fairseq's config and transformers' config.json correspond, and which table of `names` has the names of
the tensors. Nothing else distinguishes kinds: a new one is a new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from fairseq.conversion import names
from fairseq.conversion.names import Names

Values = dict[str, Any]


class Field(NamedTuple):
    """A setting that both configs have."""

    ours: str
    theirs: str
    values: Mapping[Any, Any] | None = None  # our value -> theirs; None: the same
    needed: bool = False  # a config.json without it is damaged

    def back(self) -> dict[Any, Any]:
        """Their value -> ours; of several, the first."""
        return {theirs: ours for ours, theirs in reversed(list((self.values or {}).items()))}


class Group(NamedTuple):
    """Settings that have to be computed from each other."""

    ours: tuple[str, ...]
    there: Callable[[Mapping[str, Any]], Values]
    back: Callable[[Mapping[str, Any]], Values]


class Kind(NamedTuple):
    """A kind of model, as fairseq and transformers describe it."""

    class_name: str  # transformers' classes begin with it
    model_type: str  # in config.json
    marks: tuple[str, ...]  # keys of config.json that are set for this kind only
    ours: Values  # settings that identify the kind in fairseq
    names: Names
    fields: tuple[Field, ...]
    groups: tuple[Group, ...]
    # values of our settings that transformers can represent; reading sets those that are the only ones
    only: Mapping[str, Collection[Any]]
    # values of their settings that fairseq can represent; the first is written
    theirs_only: Mapping[str, tuple[Any, ...]]
    has_heads: bool = False  # transformers has a class with the heads of pre-training
    fine_tuned: str = "wav2vec_ctc"  # model._name with an output layer

    @property
    def pretrained_class(self) -> str:
        """Suffix of the class of a pre-trained model."""
        return "ForPreTraining" if self.has_heads else "Model"

    def described(self) -> str:
        """The settings that identify the kind, for a message: " with layer_type='conformer'"."""
        more = ", ".join(f"{key}={value!r}" for key, value in self.ours.items() if key != "_name")
        return f" with {more}" if more else ""


def of_ours(config: Mapping[str, Any]) -> Kind | None:
    """The kind of a model with fairseq's config; None if transformers has none."""
    return next((kind for kind in KINDS if all(config.get(key) == value for key, value in kind.ours.items())), None)


def of_theirs(config: Mapping[str, Any]) -> Kind | None:
    """The kind that a config.json describes; None if fairseq has none."""
    fitting = (kind for kind in KINDS if kind.model_type == config.get("model_type"))
    return next((kind for kind in fitting if all(config.get(mark) for mark in kind.marks)), None)


def _same(pairs: Mapping[str, str]) -> tuple[Field, ...]:
    return tuple(Field(ours, theirs) for ours, theirs in pairs.items())


ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "swish": "swish",
    "linear": "linear",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
}
_ACTIVATION = Field("activation_fn", "hidden_act", ACTIVATIONS, needed=True)
_PRE_NORM = Field("layer_norm_first", "do_stable_layer_norm", needed=True)
_EXTRACTOR = Field("extractor_mode", "feat_extract_norm", {"layer_norm": "layer", "default": "group"}, needed=True)
_ENCODER = _same(
    {
        "encoder_layers": "num_hidden_layers",
        "encoder_embed_dim": "hidden_size",
        "encoder_ffn_embed_dim": "intermediate_size",
        "encoder_attention_heads": "num_attention_heads",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "encoder_layerdrop": "layerdrop",
        "dropout_input": "feat_proj_dropout",
        "conv_bias": "conv_bias",
        "conv_pos_groups": "num_conv_pos_embedding_groups",
        "mask_prob": "mask_time_prob",
        "mask_length": "mask_time_length",
        "mask_channel_prob": "mask_feature_prob",
        "mask_channel_length": "mask_feature_length",
    }
)
_ONE_CONVOLUTION = Field("conv_pos", "num_conv_pos_embeddings")
_HEADS = _same(
    {
        "dropout_features": "feat_quantizer_dropout",
        "num_negatives": "num_negatives",
        "logit_temp": "contrastive_logits_temperature",
        "latent_vars": "num_codevectors_per_group",
        "latent_groups": "num_codevector_groups",
    }
)
_CONFORMER = (
    Field("depthwise_conv_kernel_size", "conv_depthwise_kernel_size"),
    Field("pos_enc_type", "position_embeddings_type", {"rel_pos": "relative", "rope": "rotary"}, needed=True),
)


def _final_dim(config: Mapping[str, Any]) -> int:
    return config["final_dim"] or config["encoder_embed_dim"]


_CODEWORDS = Group(
    ("final_dim", "latent_dim"),
    lambda ours: {
        "codevector_dim": ours["latent_dim"] or _final_dim(ours),
        "proj_codevector_dim": _final_dim(ours),
    },
    lambda theirs: {"final_dim": theirs.get("proj_codevector_dim", 0), "latent_dim": theirs.get("codevector_dim", 0)},
)
_CONFORMER_MORE = Group(
    (),
    lambda ours: {"conformer_conv_dropout": ours["dropout"], "do_stable_layer_norm": True},
    lambda theirs: {},
)
_STACK = Group(  # fairseq: the stack's convolutions have kernel conv_pos // depth, at least 3
    ("conv_pos", "pos_conv_depth"),
    lambda ours: {
        "num_conv_pos_embeddings": ours["pos_conv_depth"],
        "conv_pos_kernel_size": max(3, ours["conv_pos"] // ours["pos_conv_depth"]),
    },
    lambda theirs: {
        "pos_conv_depth": theirs.get("num_conv_pos_embeddings", 5),
        "conv_pos": theirs.get("conv_pos_kernel_size", 19) * theirs.get("num_conv_pos_embeddings", 5),
    },
)

_ONLY_ALL = {"crop_seq_to_multiple": (1,), "activation_fn": ACTIVATIONS}
_ONLY_ONE_CONVOLUTION = {**_ONLY_ALL, "pos_conv_depth": (1,), "pos_enc_type": ("abs",)}
_ONLY_HEADS = {
    "quantize_input": (False,),
    "target_glu": (False,),
    "quantizer_depth": (1,),
    "quantize_targets": (True,),  # if it is not fine-tuned
}
_THEIRS_ALL: dict[str, tuple[Any, ...]] = {"feat_extract_activation": ("gelu",), "layer_norm_eps": (1e-5,)}
_THEIRS_WAV2VEC2 = {**_THEIRS_ALL, "add_adapter": (False,)}

_WAV2VEC2 = Kind(
    "Wav2Vec2",
    "wav2vec2",
    (),
    {"_name": "wav2vec2", "layer_type": "transformer"},
    names.WAV2VEC2,
    (*_ENCODER, _ONE_CONVOLUTION, *_HEADS, _EXTRACTOR, _PRE_NORM, _ACTIVATION),
    (_CODEWORDS,),
    {**_ONLY_ONE_CONVOLUTION, **_ONLY_HEADS},
    _THEIRS_WAV2VEC2,
    has_heads=True,
)
_MMS = _WAV2VEC2._replace(
    marks=("adapter_attn_dim",),
    ours={"_name": "wav2vec2", "layer_type": "trf_adp"},
    names=names.WAV2VEC2_ADAPTERS,
    fields=(*_WAV2VEC2.fields, Field("adp_dim", "adapter_attn_dim")),
    only={
        **_WAV2VEC2.only,
        "adp_num": (1,),
        "adp_act_fn": ("relu",),
        "adp_trf_idx": ("all",),
        "layer_norm_first": (True,),  # their other blocks have no adapters
    },
)
_CONFORMERS = Kind(
    "Wav2Vec2Conformer",
    "wav2vec2-conformer",
    (),
    {"_name": "wav2vec2", "layer_type": "conformer"},
    names.WAV2VEC2_CONFORMER,
    (*_ENCODER, _ONE_CONVOLUTION, *_HEADS, _EXTRACTOR, *_CONFORMER),
    (_CODEWORDS, _CONFORMER_MORE),
    {
        **_ONLY_ALL,
        **_ONLY_HEADS,
        "pos_conv_depth": (1,),
        "attn_type": ("espnet",),
        "pos_enc_type": ("rel_pos", "rope"),
        "layer_norm_first": (True,),  # their blocks always end with a layer norm
    },
    {
        **_THEIRS_WAV2VEC2,
        "hidden_act": ("swish", "silu"),
        "rotary_embedding_base": (10000,),
        "adapter_attn_dim": (None,),
    },
    has_heads=True,
)
_HUBERT = Kind(
    "Hubert",
    "hubert",
    (),
    {"_name": "hubert", "layer_type": "transformer", "conv_pos_batch_norm": False},
    names.HUBERT,
    (*_ENCODER, _ONE_CONVOLUTION, _EXTRACTOR, _PRE_NORM, _ACTIVATION),
    (),
    _ONLY_ONE_CONVOLUTION,
    {**_THEIRS_ALL, "feat_proj_layer_norm": (True,)},
    fine_tuned="hubert_ctc",
)
_HUBERT_BATCH_NORM = _HUBERT._replace(
    marks=("conv_pos_batch_norm",),
    ours={**_HUBERT.ours, "conv_pos_batch_norm": True},
    names=names.HUBERT_BATCH_NORM,
    theirs_only={**_HUBERT.theirs_only, "conv_pos_batch_norm": (True,)},
)
_DATA2VEC = Kind(
    "Data2VecAudio",
    "data2vec-audio",
    (),
    {"_name": "data2vec_audio", "layer_type": "transformer"},
    names.DATA2VEC_AUDIO,
    (*_ENCODER, _ACTIVATION),
    (_STACK,),
    {
        **_ONLY_ALL,
        "pos_enc_type": ("abs",),
        "pos_conv_depth": range(2, 1000),  # a single convolution has a weight norm here
        "extractor_mode": ("layer_norm",),
        "layer_norm_first": (False,),
    },
    _THEIRS_WAV2VEC2,
)
KINDS = (_MMS, _WAV2VEC2, _CONFORMERS, _HUBERT_BATCH_NORM, _HUBERT, _DATA2VEC)  # those with marks first
