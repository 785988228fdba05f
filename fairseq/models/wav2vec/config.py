"""Configuration of wav2vec 2.0: fairseq 0.12.2's fields and defaults, and three of our own."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass

EXTRACTOR_MODE_CHOICES = ChoiceEnum(["default", "layer_norm"])
MASKING_DISTRIBUTION_CHOICES = ChoiceEnum(["static", "uniform", "normal", "poisson"])
LAYER_TYPE_CHOICES = ChoiceEnum(["transformer", "conformer"])


def _help(text: str) -> dict[str, Any]:
    return {"help": text}


@dataclass
class Wav2Vec2Config(FairseqDataclass):
    # feature extractor
    extractor_mode: EXTRACTOR_MODE_CHOICES = field(
        default="default",
        metadata=_help(
            "default: one group norm, after the first convolution; layer_norm: a layer norm after each (with "
            "normalize: true)"
        ),
    )

    # encoder
    encoder_layers: int = field(default=12, metadata=_help("blocks of the encoder"))
    encoder_embed_dim: int = field(default=768, metadata=_help("channels of the encoder"))
    encoder_ffn_embed_dim: int = field(default=3072, metadata=_help("inner channels of a feed-forward layer"))
    encoder_attention_heads: int = field(default=12, metadata=_help("attention heads of a block"))
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="gelu", metadata=_help("activation of the transformer's feed-forward layers")
    )
    layer_type: LAYER_TYPE_CHOICES = field(default="transformer", metadata=_help("kind of block"))

    # dropouts
    dropout: float = field(default=0.1, metadata=_help("dropout in the encoder"))
    attention_dropout: float = field(default=0.1, metadata=_help("dropout of attention weights (transformer)"))
    activation_dropout: float = field(
        default=0.0, metadata=_help("dropout after the activation of a feed-forward layer (transformer)")
    )
    encoder_layerdrop: float = field(default=0.0, metadata=_help("probability of leaving out a block, in training"))
    dropout_input: float = field(default=0.0, metadata=_help("dropout of the features that the encoder gets"))
    dropout_features: float = field(default=0.0, metadata=_help("dropout of the features that the targets are made of"))

    final_dim: int = field(default=0, metadata=_help("width of predictions and targets; 0: encoder_embed_dim"))
    layer_norm_first: bool = field(
        default=False, metadata=_help("layer norm before attention and feed-forward (pre-norm), not after")
    )
    conv_feature_layers: str = field(
        default="[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
        metadata=_help(
            "convolutions of the feature extractor: lists of (channels, kernel, stride), added and multiplied"
        ),
    )
    conv_bias: bool = field(default=False, metadata=_help("biases in the feature extractor's convolutions"))
    logit_temp: float = field(
        default=0.1, metadata=_help("the cosine similarities of the contrastive task are divided by this")
    )
    logit_temp_start: Optional[float] = field(
        default=None,
        metadata=_help(
            "where that temperature starts, to fall geometrically to logit_temp; None: it is constant, as in the paper"
        ),
    )
    logit_temp_updates: int = field(default=0, metadata=_help("updates that this fall takes"))
    quantize_targets: bool = field(
        default=False, metadata=_help("targets are codewords (as in the paper), else continuous features")
    )
    quantize_input: bool = field(default=False, metadata=_help("the encoder gets codewords"))
    same_quantizer: bool = field(default=False, metadata=_help("one quantizer for input and targets"))
    target_glu: bool = field(default=False, metadata=_help("a gated linear layer on the targets"))
    feature_grad_mult: float = field(
        default=1.0, metadata=_help("the feature extractor's gradient is multiplied by this; 0: it is frozen")
    )
    quantizer_depth: int = field(default=1, metadata=_help("layers of the projection to the quantizer's logits"))
    quantizer_factor: int = field(
        default=3, metadata=_help("inner width of that projection, over its input's, if it has several layers")
    )
    latent_vars: int = field(default=320, metadata=_help("codewords of a group"))
    latent_groups: int = field(default=2, metadata=_help("groups of the codebook"))
    latent_dim: int = field(default=0, metadata=_help("width of quantized targets; 0: final_dim"))

    # masks over time
    mask_length: int = field(default=10, metadata=_help("frames of a masked span"))
    mask_prob: float = field(default=0.65, metadata=_help("share of frames in masked spans, if none overlapped"))
    mask_selection: MASKING_DISTRIBUTION_CHOICES = field(default="static", metadata=_help("how span lengths are drawn"))
    mask_other: float = field(
        default=0, metadata=_help("second parameter of that draw (uniform: shortest; normal: deviation)")
    )
    no_mask_overlap: bool = field(default=False, metadata=_help("spans do not overlap"))
    mask_min_space: int = field(default=1, metadata=_help("frames between spans that do not overlap"))
    require_same_masks: bool = field(
        default=True,
        metadata=_help(
            "single frames are unmasked until rows mask about equally many; false: whole spans, as in fine-tuning"
        ),
    )
    mask_dropout: float = field(default=0.0, metadata=_help("share of masked frames that is unmasked again"))
    mask_emb_init: Optional[float] = field(
        default=None,
        metadata=_help(
            "mask_emb starts with values between 0 and this; None: 1 as in fairseq, 0.1 where logit_temp_start is set"
        ),
    )

    # masks over channels
    mask_channel_length: int = field(default=10, metadata=_help("channels of a masked span"))
    mask_channel_prob: float = field(
        default=0.0, metadata=_help("share of channels in masked spans, if none overlapped")
    )
    mask_channel_before: bool = field(
        default=False, metadata=_help("channels are masked before frames, so that mask_emb stays whole")
    )
    mask_channel_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata=_help("how these lengths are drawn")
    )
    mask_channel_other: float = field(default=0, metadata=_help("second parameter of that draw"))
    no_mask_channel_overlap: bool = field(default=False, metadata=_help("channel spans do not overlap"))
    mask_channel_min_space: int = field(default=1, metadata=_help("channels between spans that do not overlap"))

    # negatives
    num_negatives: int = field(default=100, metadata=_help("negatives from the same utterance"))
    negatives_from_everywhere: bool = field(
        default=False, metadata=_help("these come from all of its frames, not only the masked ones")
    )
    cross_sample_negatives: int = field(default=0, metadata=_help("further negatives from all utterances of the batch"))
    codebook_negatives: int = field(default=0, metadata=_help("further negatives from the codebook"))

    # positional convolution
    conv_pos: int = field(default=128, metadata=_help("kernel of the positional convolution"))
    conv_pos_groups: int = field(default=16, metadata=_help("its groups"))
    pos_conv_depth: int = field(
        default=1,
        metadata=_help("convolutions of the positional embedding; each of several has conv_pos // depth taps"),
    )

    latent_temp: tuple[float, float, float] = field(
        default=(2, 0.5, 0.999995), metadata=_help("temperature of the Gumbel softmax: start, floor, factor an update")
    )
    max_positions: int = field(default=100000, metadata=_help("most frames of an utterance"))
    checkpoint_activations: bool = field(
        default=False, metadata=_help("recompute blocks in backward: less memory, more time")
    )

    # lengths
    required_seq_len_multiple: int = field(
        default=2, metadata=_help("the transformer gets frames padded to a multiple of this")
    )
    crop_seq_to_multiple: int = field(default=1, metadata=_help("features are cropped to a multiple of so many frames"))

    # conformer
    depthwise_conv_kernel_size: int = field(default=31, metadata=_help("kernel of the depthwise convolution, odd"))
    attn_type: str = field(default="", metadata=_help("espnet, or empty for fairseq's attention"))
    pos_enc_type: str = field(default="abs", metadata=_help("rel_pos, rope, or abs for the positional convolution"))
    fp16: bool = field(
        default=False, metadata=_help("kept from fairseq; precision is common.fp16's and common.bf16's choice")
    )

    # adapters are not offered in pre-training: these keys of later fairseq versions are accepted at their defaults
    adp_num: int = field(default=-1, metadata=_help("adapters; only -1, none, is offered"))
    adp_dim: int = field(default=64, metadata=_help("their width"))
    adp_act_fn: str = field(default="relu", metadata=_help("their activation"))
    adp_trf_idx: str = field(default="all", metadata=_help("their layers"))


_ADAPTERS = {"adp_num": -1, "adp_dim": 64, "adp_act_fn": "relu", "adp_trf_idx": "all"}


def check_model_config(cfg: Wav2Vec2Config) -> None:
    """Check the model's fields against each other; what the data or the trainer have to do with them is checked
    elsewhere.

    Raises:
        ValueError: all problems in one message.
    """
    problems = [
        f"model.{key} is {getattr(cfg, key)!r}, but adapters are not offered: leave it at {default!r}"
        for key, default in _ADAPTERS.items()
        if getattr(cfg, key) != default
    ]
    if cfg.logit_temp <= 0:
        problems.append(f"model.logit_temp is {cfg.logit_temp}; it must be above 0")
    if cfg.logit_temp_start is not None and (cfg.logit_temp_start <= 0 or cfg.logit_temp_updates < 1):
        problems.append(
            f"model.logit_temp_start is {cfg.logit_temp_start} and model.logit_temp_updates {cfg.logit_temp_updates}; "
            "a falling temperature needs a start above 0 and at least 1 update"
        )
    if cfg.mask_emb_init is not None and cfg.mask_emb_init < 0:
        problems.append(f"model.mask_emb_init is {cfg.mask_emb_init}; it must not be negative")
    for key in ("required_seq_len_multiple", "crop_seq_to_multiple", "pos_conv_depth"):
        if getattr(cfg, key) < 1:
            problems.append(f"model.{key} is {getattr(cfg, key)}; it must be at least 1")
    if cfg.pos_enc_type not in ("abs", "rel_pos", "rope"):
        problems.append(f"model.pos_enc_type is {cfg.pos_enc_type!r}; it may be 'abs', 'rel_pos' or 'rope'")
    if cfg.codebook_negatives > 0 and not cfg.quantize_targets:
        problems.append(
            "model.codebook_negatives is set but model.quantize_targets is false: there is no codebook to draw from"
        )
    if problems:
        raise ValueError("; ".join(problems))
