"""Configuration of wav2vec 2.0: fairseq 0.12.2's fields and defaults, and three more fields."""

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.frames import parse_conv_layers
from fairseq.masks.selections import SELECTIONS
from fairseq.masks.settings import selection_problems

EXTRACTOR_MODE_CHOICES = ChoiceEnum(["default", "layer_norm"])
MASKING_DISTRIBUTION_CHOICES = ChoiceEnum(list(SELECTIONS))
LAYER_TYPE_CHOICES = ChoiceEnum(["transformer", "conformer"])


def _help(text: str, **rules: Any) -> dict[str, Any]:
    """A field's metadata: its help, and rules (see FairseqDataclass)."""
    return {"help": text, **rules}


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

    final_dim: int = field(default=0, metadata=_help("width of predictions and targets; 0: encoder_embed_dim"))
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
    logit_temp: float = field(
        default=0.1, metadata=_help("temperature: divisor of the contrastive task's cosine similarities")
    )
    logit_temp_start: Optional[float] = field(
        default=None,
        metadata=_help(
            "initial temperature, which decays geometrically to logit_temp; None: constant, as in the paper"
        ),
    )
    logit_temp_updates: int = field(default=0, metadata=_help("updates of that decay"))
    quantize_targets: bool = field(
        default=False, metadata=_help("use codewords as targets, as in the paper; false: continuous features")
    )
    quantize_input: bool = field(default=False, metadata=_help("use codewords as the encoder's input"))
    same_quantizer: bool = field(default=False, metadata=_help("share one quantizer between input and targets"))
    target_glu: bool = field(default=False, metadata=_help("a gated linear layer on the targets"))
    feature_grad_mult: float = field(
        default=1.0, metadata=_help("factor on the feature extractor's gradient; 0: frozen")
    )
    quantizer_depth: int = field(default=1, metadata=_help("layers of the projection to the quantizer's logits"))
    quantizer_factor: int = field(
        default=3, metadata=_help("inner width of that projection relative to its input, if it has several layers")
    )
    latent_vars: int = field(default=320, metadata=_help("codewords per group", at_least=1))
    latent_groups: int = field(default=2, metadata=_help("groups of the codebook", at_least=1))
    latent_dim: int = field(default=0, metadata=_help("width of quantized targets; 0: final_dim"))

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
    mask_emb_init: Optional[float] = field(
        default=None,
        metadata=_help(
            "mask_emb is initialised with values from 0 to this; None: 1 as in fairseq, or 0.1 if logit_temp_start is "
            "set"
        ),
    )

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

    # negatives
    num_negatives: int = field(default=100, metadata=_help("negatives from the same utterance", at_least=0))
    negatives_from_everywhere: bool = field(
        default=False, metadata=_help("draw them from all of its frames, not only the masked ones")
    )
    cross_sample_negatives: int = field(
        default=0, metadata=_help("additional negatives from all utterances of the batch", at_least=0)
    )
    codebook_negatives: int = field(default=0, metadata=_help("additional negatives from the codebook", at_least=0))

    # positional convolution
    conv_pos: int = field(default=128, metadata=_help("kernel of the positional convolution", at_least=1))
    conv_pos_groups: int = field(default=16, metadata=_help("groups of the positional convolution", at_least=1))
    pos_conv_depth: int = field(
        default=1,
        metadata=_help(
            "convolutions of the positional embedding; if several, each has kernel conv_pos // depth", at_least=1
        ),
    )

    latent_temp: tuple[float, float, float] = field(
        default=(2, 0.5, 0.999995), metadata=_help("temperature of the Gumbel softmax: start, floor, factor per update")
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

    # adapters are not offered in pre-training: these keys of later fairseq versions are accepted at their defaults
    adp_num: int = field(default=-1, metadata=_help("adapters; only -1 (none) is offered", refused=True))
    adp_dim: int = field(default=64, metadata=_help("their width", refused=True))
    adp_act_fn: str = field(default="relu", metadata=_help("their activation", refused=True))
    adp_trf_idx: str = field(default="all", metadata=_help("their layers", refused=True))

    def check(self) -> Iterator[Finding]:
        yield from conv_layer_findings("model.conv_feature_layers", self.conv_feature_layers)
        yield from self._widths()
        for problem in selection_problems(self):
            yield wrong(f"model.{problem}", "masks")
        if self.logit_temp <= 0:
            yield wrong(f"model.logit_temp is {self.logit_temp}: it must be above 0.", "wav2vec2-widths")
        if self.logit_temp_start is not None and (self.logit_temp_start <= 0 or self.logit_temp_updates < 1):
            yield wrong(
                f"model.logit_temp_start is {self.logit_temp_start} and model.logit_temp_updates is "
                f"{self.logit_temp_updates}: the start must be above 0, and the updates at least 1.",
                "wav2vec2-widths",
            )
        if self.mask_emb_init is not None and self.mask_emb_init < 0:
            yield wrong(f"model.mask_emb_init is {self.mask_emb_init}: it must not be negative.", "wav2vec2-widths")
        if self.codebook_negatives > 0 and not self.quantize_targets:
            yield wrong(
                f"model.codebook_negatives is {self.codebook_negatives} but model.quantize_targets is false, so there "
                "is no codebook. Set model.quantize_targets=true, or model.codebook_negatives=0.",
                "wav2vec2-widths",
            )

    def _widths(self) -> Iterator[Finding]:
        """Check that widths are divisible, and the quantizer's settings."""
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
        if not self.quantize_targets:
            return
        codeword, key = (self.latent_dim, "latent_dim") if self.latent_dim > 0 else (self.final_dim, "final_dim")
        codeword, key = (codeword, key) if codeword > 0 else (width, "encoder_embed_dim")
        if self.latent_groups > 0 and codeword % self.latent_groups:
            yield wrong(
                f"model.{key} is {codeword}, the codewords' width: model.latent_groups ({self.latent_groups}) must "
                "divide it.",
                "wav2vec2-widths",
            )
        if len(self.latent_temp) != 3:
            yield wrong(
                f"model.latent_temp is {list(self.latent_temp)}: it must be three numbers: first temperature, last "
                "temperature, factor per update.",
                "wav2vec2-widths",
            )


def conv_layer_findings(key: str, text: Any) -> Iterator[Finding]:
    """Check that a feature extractor can be built from this value of config key `key`."""
    if isinstance(text, str):
        try:
            parse_conv_layers(text)
        except ValueError as error:
            yield wrong(key + str(error).removeprefix("conv_feature_layers"), "conv-layers")
