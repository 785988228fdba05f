"""Configuration of wav2vec 2.0: fairseq 0.12.2's fields and defaults, and three more fields."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import Finding, wrong
from fairseq.models.wav2vec.audio_config import (
    EXTRACTOR_MODE_CHOICES,
    LAYER_TYPE_CHOICES,
    MASKING_DISTRIBUTION_CHOICES,
    AudioModelConfig,
    conv_layer_findings,
)
from fairseq.models.wav2vec.audio_config import help_text as _help

__all__ = [
    "EXTRACTOR_MODE_CHOICES",
    "LAYER_TYPE_CHOICES",
    "MASKING_DISTRIBUTION_CHOICES",
    "AudioModelConfig",
    "Wav2Vec2Config",
    "conv_layer_findings",
]


@dataclass
class Wav2Vec2Config(AudioModelConfig):
    """Audio model, quantizer and contrastive task."""

    final_dim: int = field(default=0, metadata=_help("width of predictions and targets; 0: encoder_embed_dim"))
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
    quantizer_depth: int = field(default=1, metadata=_help("layers of the projection to the quantizer's logits"))
    quantizer_factor: int = field(
        default=3, metadata=_help("inner width of that projection relative to its input, if it has several layers")
    )
    latent_vars: int = field(default=320, metadata=_help("codewords per group", at_least=1))
    latent_groups: int = field(default=2, metadata=_help("groups of the codebook", at_least=1))
    latent_dim: int = field(default=0, metadata=_help("width of quantized targets; 0: final_dim"))
    mask_emb_init: Optional[float] = field(
        default=None,
        metadata=_help(
            "mask_emb is initialised with values from 0 to this; None: 1 as in fairseq, or 0.1 if logit_temp_start is "
            "set"
        ),
    )

    # negatives
    num_negatives: int = field(default=100, metadata=_help("negatives from the same utterance", at_least=0))
    negatives_from_everywhere: bool = field(
        default=False, metadata=_help("draw them from all of its frames, not only the masked ones")
    )
    cross_sample_negatives: int = field(
        default=0, metadata=_help("additional negatives from all utterances of the batch", at_least=0)
    )
    codebook_negatives: int = field(default=0, metadata=_help("additional negatives from the codebook", at_least=0))

    latent_temp: tuple[float, float, float] = field(
        default=(2, 0.5, 0.999995), metadata=_help("temperature of the Gumbel softmax: start, floor, factor per update")
    )

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        yield from self._codebook()
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

    def _codebook(self) -> Iterator[Finding]:
        """Check the quantizer's settings."""
        if not self.quantize_targets:
            return
        codeword, key = (self.latent_dim, "latent_dim") if self.latent_dim > 0 else (self.final_dim, "final_dim")
        codeword, key = (codeword, key) if codeword > 0 else (self.encoder_embed_dim, "encoder_embed_dim")
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
