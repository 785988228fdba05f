"""Configuration of HuBERT: fairseq 0.12.2's fields and defaults, and those that every audio model has here."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from omegaconf import II

from fairseq.dataclass import Finding, wrong
from fairseq.models.wav2vec.audio_config import AudioModelConfig, help_text


@dataclass
class HubertConfig(AudioModelConfig):
    """Audio model and prediction of cluster labels: fairseq's fields and defaults."""

    label_rate: float = field(default=II("task.label_rate"), metadata=help_text("labels per second; -1: one sequence"))
    conv_feature_layers: str = field(
        default="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        metadata=help_text(
            "convolutions of the feature extractor: lists of (channels, kernel, stride), combined with + and *"
        ),
    )
    final_dim: int = field(default=0, metadata=help_text("width of predictions and label embeddings; 0: the encoder's"))
    untie_final_proj: bool = field(default=False, metadata=help_text("one projection per set of labels"))
    logit_temp: float = field(default=0.1, metadata=help_text("divisor of the cosine similarities"))
    target_glu: bool = field(default=False, metadata=help_text("a gated linear layer on the label embeddings"))
    conv_pos_batch_norm: bool = field(
        default=False, metadata=help_text("batch norm instead of weight norm in the positional convolution")
    )
    latent_temp: tuple[float, float, float] = field(default=(2, 0.5, 0.999995), metadata=help_text("no effect"))
    skip_masked: bool = field(default=False, metadata=help_text("no loss of masked frames (pre-training)"))
    skip_nomask: bool = field(default=False, metadata=help_text("no loss of unmasked frames (pre-training)"))

    @staticmethod
    def only_opens() -> Optional[str]:
        return "it opens, gives features, and is fine-tuned. Set model=wav2vec_ctc and model.w2v_path=FILE."

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        if self.conv_pos_batch_norm and self.pos_conv_depth > 1:
            yield wrong(
                f"model.pos_conv_depth is {self.pos_conv_depth}: with model.conv_pos_batch_norm=true it must be 1.",
                "wav2vec2-widths",
            )
