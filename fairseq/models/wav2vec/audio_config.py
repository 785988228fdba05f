"""Configuration that all audio encoders share: extractor, encoder, masks and lengths, with fairseq's names.

Source: fields and defaults of fairseq 0.12.2's Wav2Vec2Config.
"""

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.frames import parse_conv_layers
from fairseq.masks.selections import SELECTIONS
from fairseq.masks.settings import selection_problems
from fairseq.models.wav2vec.adapters import ACTIVATIONS, layers_with_adapters

EXTRACTOR_MODE_CHOICES = ChoiceEnum(["default", "layer_norm"])
MASKING_DISTRIBUTION_CHOICES = ChoiceEnum(list(SELECTIONS))
LAYER_TYPE_CHOICES = ChoiceEnum(["transformer", "conformer", "trf_adp"])


def help_text(text: str, **rules: Any) -> dict[str, Any]:
    """A field's metadata: its help, and rules (see FairseqDataclass)."""
    return {"help": text, **rules}


_help = help_text


@dataclass
class AudioModelConfig(FairseqDataclass):
    """Fields that every audio model has; each model adds those of its own objective."""

    # feature extractor
    extractor_mode: EXTRACTOR_MODE_CHOICES = field(
        default="default",
        metadata=_help(
            "default: one group norm, after the first convolution; layer_norm: a layer norm after each (with "
            "normalize: true)"
        ),
    )

    # encoder
    encoder_layers: int = field(default=12, metadata=_help("blocks of the encoder", at_least=1))
    encoder_embed_dim: int = field(default=768, metadata=_help("channels of the encoder", at_least=1))
    encoder_ffn_embed_dim: int = field(default=3072, metadata=_help("inner channels of a feed-forward layer"))
    encoder_attention_heads: int = field(default=12, metadata=_help("attention heads of a block", at_least=1))
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(
        default="gelu", metadata=_help("activation of the transformer's feed-forward layers")
    )
    layer_type: LAYER_TYPE_CHOICES = field(default="transformer", metadata=_help("kind of block"))

    # dropouts
    dropout: float = field(default=0.1, metadata=_help("dropout in the encoder", share=True))
    attention_dropout: float = field(
        default=0.1, metadata=_help("dropout on attention weights (transformer)", share=True)
    )
    activation_dropout: float = field(
        default=0.0, metadata=_help("dropout after the activation of a feed-forward layer (transformer)", share=True)
    )
    encoder_layerdrop: float = field(
        default=0.0, metadata=_help("probability of skipping a block in training", share=True)
    )
    dropout_input: float = field(default=0.0, metadata=_help("dropout of the encoder's input features", share=True))
    dropout_features: float = field(
        default=0.0, metadata=_help("dropout of the features that the targets are made from", share=True)
    )
    layer_norm_first: bool = field(
        default=False, metadata=_help("layer norm before attention and feed-forward (pre-norm) instead of after")
    )
    conv_feature_layers: str = field(
        default="[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
        metadata=_help(
            "convolutions of the feature extractor: lists of (channels, kernel, stride), combined with + and *"
        ),
    )
    conv_bias: bool = field(default=False, metadata=_help("biases in the feature extractor's convolutions"))
    feature_grad_mult: float = field(
        default=1.0, metadata=_help("factor on the feature extractor's gradient; 0: frozen")
    )

    # masks over time
    mask_length: int = field(default=10, metadata=_help("frames per masked span", at_least=1))
    mask_prob: float = field(default=0.65, metadata=_help("share of frames in masked spans, if no spans overlapped"))
    mask_selection: MASKING_DISTRIBUTION_CHOICES = field(default="static", metadata=_help("how span lengths are drawn"))
    mask_other: float = field(
        default=0, metadata=_help("second parameter of that draw (uniform: shortest; normal: deviation)")
    )
    no_mask_overlap: bool = field(default=False, metadata=_help("spans do not overlap"))
    mask_min_space: int = field(default=1, metadata=_help("frames between spans that do not overlap"))
    require_same_masks: bool = field(
        default=True,
        metadata=_help(
            "unmask single frames until rows mask about equally many; false: keep whole spans, as in fine-tuning"
        ),
    )
    mask_dropout: float = field(default=0.0, metadata=_help("share of masked frames to unmask again", share=True))

    # masks over channels
    mask_channel_length: int = field(default=10, metadata=_help("channels per masked span", at_least=1))
    mask_channel_prob: float = field(
        default=0.0, metadata=_help("share of channels in masked spans, if no spans overlapped", share=True)
    )
    mask_channel_before: bool = field(
        default=False, metadata=_help("mask channels before frames, so that mask_emb is not masked")
    )
    mask_channel_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata=_help("how channel span lengths are drawn")
    )
    mask_channel_other: float = field(default=0, metadata=_help("second parameter of that draw"))
    no_mask_channel_overlap: bool = field(default=False, metadata=_help("channel spans do not overlap"))
    mask_channel_min_space: int = field(default=1, metadata=_help("channels between spans that do not overlap"))

    # positional convolution
    conv_pos: int = field(default=128, metadata=_help("kernel of the positional convolution", at_least=1))
    conv_pos_groups: int = field(default=16, metadata=_help("groups of the positional convolution", at_least=1))
    pos_conv_depth: int = field(
        default=1,
        metadata=_help(
            "convolutions of the positional embedding; if several, each has kernel conv_pos // depth", at_least=1
        ),
    )
    max_positions: int = field(default=100000, metadata=_help("maximum frames of an utterance"))
    checkpoint_activations: bool = field(
        default=False, metadata=_help("recompute blocks in the backward pass: less memory, more time")
    )

    # lengths
    required_seq_len_multiple: int = field(
        default=2, metadata=_help("pad the transformer's input to a multiple of this many frames", at_least=1)
    )
    crop_seq_to_multiple: int = field(
        default=1, metadata=_help("crop features to a multiple of this many frames", at_least=1)
    )

    # conformer
    depthwise_conv_kernel_size: int = field(default=31, metadata=_help("kernel of the depthwise convolution, odd"))
    attn_type: str = field(default="", metadata=_help("espnet, or empty for fairseq's attention"))
    pos_enc_type: str = field(
        default="abs",
        metadata=_help("rel_pos, rope, or abs for the positional convolution", choices=("abs", "rel_pos", "rope")),
    )
    fp16: bool = field(default=False, metadata=_help("no effect: common.fp16 and common.bf16 set the precision"))

    # adapters, one per language, in blocks of layer_type trf_adp (Pratap et al. 2023, MMS)
    adp_num: int = field(default=-1, metadata=_help("adapters per block, one per language; -1: none"))
    adp_dim: int = field(default=64, metadata=_help("their width", at_least=1))
    adp_act_fn: str = field(default="relu", metadata=_help("their activation", choices=ACTIVATIONS))
    adp_trf_idx: str = field(default="all", metadata=_help("blocks with adapters: all, or first:end, counted from 0"))

    def check(self) -> Iterator[Finding]:
        yield from conv_layer_findings("model.conv_feature_layers", self.conv_feature_layers)
        yield from self._encoder_widths()
        yield from self._adapters()
        for problem in selection_problems(self):
            yield wrong(f"model.{problem}", "masks")

    def _encoder_widths(self) -> Iterator[Finding]:
        """Check that heads and groups divide the encoder's width."""
        width, heads, groups = self.encoder_embed_dim, self.encoder_attention_heads, self.conv_pos_groups
        if heads > 0 and width % heads:
            yield wrong(
                f"model.encoder_embed_dim is {width}: model.encoder_attention_heads ({heads}) must divide it.",
                "wav2vec2-widths",
            )
        if groups > 0 and width % groups:
            yield wrong(
                f"model.encoder_embed_dim is {width}: model.conv_pos_groups ({groups}) must divide it.",
                "wav2vec2-widths",
            )

    def _adapters(self) -> Iterator[Finding]:
        """Check that adapters and blocks that hold them come together."""
        if str(self.layer_type) != "trf_adp":
            if self.adp_num > 0:
                yield wrong(
                    f"model.adp_num is {self.adp_num} but model.layer_type is {self.layer_type}, whose blocks have no "
                    "adapters. Set model.layer_type=trf_adp, or model.adp_num=-1.",
                    "wav2vec2-widths",
                )
            return
        if self.adp_num < 1:
            yield wrong(
                f"model.layer_type is trf_adp but model.adp_num is {self.adp_num}. Set it to the number of languages, "
                "at least 1.",
                "wav2vec2-widths",
            )
        try:
            layers_with_adapters(self.adp_trf_idx, self.encoder_layers)
        except ValueError as error:
            yield wrong(str(error), "wav2vec2-widths")


def conv_layer_findings(key: str, text: Any) -> Iterator[Finding]:
    """Check that a feature extractor can be built from this value of config key `key`."""
    if isinstance(text, str):
        try:
            parse_conv_layers(text)
        except ValueError as error:
            yield wrong(key + str(error).removeprefix("conv_feature_layers"), "conv-layers")
