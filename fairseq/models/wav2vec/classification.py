"""A pre-trained encoder with a classifier over the pooled frames. Letters: K classes; see the package."""

from __future__ import annotations

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
import logging
from collections.abc import Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol

import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.utils import ConfigLike, merge_with_parent
from fairseq.models import bounded, register_model
from fairseq.models.fairseq_model import BaseFairseqModel, Outputs
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.asr_config import Wav2Vec2AsrConfig
from fairseq.models.wav2vec.pooling import POOLINGS, Pooling
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecEncoder

logger = logging.getLogger(__name__)

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "linear": nn.Identity}
POOLING_CHOICES = ChoiceEnum(list(POOLINGS))
ACTIVATION_CHOICES = ChoiceEnum(list(_ACTIVATIONS))


@dataclass
class Wav2Vec2ClassificationConfig(Wav2Vec2AsrConfig):
    pooling: POOLING_CHOICES = field(
        default="mean",
        metadata={
            "help": "how the frames of an utterance become one vector: their mean, a mean with learned weights "
            "(attentive), or mean and standard deviation (statistics)"
        },
    )
    latent_embed_dim: Optional[int] = field(
        default=None,
        metadata={"help": "width between pooling and classes; None: the encoder's width", "at_least": 1},
    )
    activation_fn: ACTIVATION_CHOICES = field(
        default="gelu", metadata={"help": "activation between the two linear layers of the classifier"}
    )


class HasClasses(Protocol):
    """A task whose dictionary has one symbol per class."""

    @property
    def target_dictionary(self) -> Sized: ...


@register_model("wav2vec_classification", dataclass=Wav2Vec2ClassificationConfig)
class Wav2VecClassification(BaseFairseqModel):
    """Predict one class per utterance from the encoder's last layer."""

    outputs = Outputs("audio_classification", "classification")

    def __init__(
        self, cfg: Wav2Vec2ClassificationConfig | DictConfig, w2v_encoder: Wav2VecEncoder, pooling_layer: Pooling
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.w2v_encoder = w2v_encoder
        self.pooling_layer = pooling_layer

    @classmethod
    def build_model(cls, cfg: ConfigLike, task: HasClasses) -> Wav2VecClassification:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Build the model; `w2v_args` and `w2v_path` mean what they do in `Wav2VecCtc.build_model`.

        Args:
            cfg: part of a whole config or on its own.
            task: only its `target_dictionary` is used.
        Raises:
            ValueError: `w2v_path` cannot be read, or is not a model to fine-tune; invalid config keys or values.
        """
        cfg = merge_with_parent(Wav2Vec2ClassificationConfig(), cfg)
        source = pretrained.read_start(cfg)
        with nullcontext() if source is None else bounded.by(source.encoder):
            encoder = Wav2VecEncoder(cfg)
        if source is not None and not cfg.no_pretrained_weights:
            encoder.load_pretrained(source)
        width = encoder.encoder_config().encoder_embed_dim
        activation = _ACTIVATIONS[str(cfg.activation_fn)]()
        latent = width if cfg.latent_embed_dim is None else cfg.latent_embed_dim
        pooling = POOLINGS[str(cfg.pooling)](width, latent, len(task.target_dictionary), activation)
        return cls(cfg, encoder, pooling)

    def pretraining_config(self) -> dict[str, Any]:
        """The whole pre-training config: groups model, task ... as plain values."""
        return pretrained.as_container(self.cfg.w2v_args)

    def forward(self, **kwargs: Tensor | None) -> Tensor:
        """Compute logits, B x K; arguments as for `Wav2VecEncoder.forward`."""
        encoded = self.w2v_encoder(**kwargs)
        return self.pooling_layer(encoded["encoder_out"], encoded["padding_mask"])

    def get_logits(self, net_output: Tensor) -> Tensor:
        return net_output

    def get_normalized_probs(
        self, net_output: Tensor, log_probs: bool, sample: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Probabilities of the classes, or their logarithms, B x K, fp32."""
        logits = net_output.float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def max_positions(self) -> int | None:
        """Audio of any length."""
        return None
