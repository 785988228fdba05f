"""data2vec on audio for feature extraction. Its pre-training, with a teacher of averaged weights, is not offered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fairseq.dataclass.utils import ConfigLike
from fairseq.models import register_model
from fairseq.models.data2vec.config import Data2VecAudioConfig
from fairseq.models.wav2vec.audio_config import AudioModelConfig
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.encoder import TransformerEncoder
from fairseq.models.wav2vec.stages import GivenMasks

__all__ = ["Data2VecAudioConfig", "Data2VecAudioModel"]

logger = logging.getLogger(__name__)


@register_model("data2vec_audio", dataclass=Data2VecAudioConfig)
class Data2VecAudioModel(AudioModel):
    """Feature extractor and encoder, whose published models have a stack of positional convolutions.

    Args:
        cfg: a Data2VecAudioConfig, or a dict or DictConfig of its fields.
    Raises:
        ValueError: unknown or inconsistent config fields.
    """

    cfg: Data2VecAudioConfig
    config_class = Data2VecAudioConfig
    pretraining_only = ("final_proj", "_ema")

    def __init__(self, cfg: ConfigLike) -> None:
        super().__init__(cfg)
        width = self.cfg.encoder_embed_dim
        self.extractor_embed = self.embed
        self.add_encoder()
        self.final_proj: nn.Linear | None = nn.Linear(width, width)
        self.ema = None  # the teacher

    def projects(self, cfg: AudioModelConfig) -> bool:
        return True

    def build_encoder(self, cfg: AudioModelConfig) -> TransformerEncoder:
        return TransformerEncoder(cfg)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Leave out the teacher, the averaged weights of pre-training."""
        super().upgrade_state_dict_named(state_dict, name)
        teacher = f"{name}._ema" if name else "_ema"
        if state_dict.pop(teacher, None) is not None:
            logger.info("data2vec: the teacher in this file (%s) was left out; only its pre-training uses it", teacher)

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = True,
        features_only: bool = False,
        layer: int | None = None,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
        padding_count: int | None = None,
        corpus_key: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Return features.

        Args:
            source: raw audio, B x S.
            padding_mask: B x S, any dtype, nonzero where a sample is padding; None: no padding.
            mask: mask frames (and channels).
            features_only: must be true.
            layer: see `AudioModel.encode`.
            mask_indices: masked frames, bool, B x T; None draws them from the config.
            mask_channel_indices: masked channels, bool, B x C; likewise.
            padding_count: ignored (fairseq's callers pass it).
            corpus_key: see `AudioModel.encode`.
        Returns:
            x (B x T x C), padding_mask (bool, B x T; None without padding), layer_results.
        Raises:
            ValueError: a pre-training pass is asked for.
        """
        if not features_only:
            raise ValueError(
                "data2vec's pre-training is not offered: this package extracts features with data2vec and fine-tunes "
                "it with CTC. Call model.extract_features(source, padding_mask)."
            )
        given = GivenMasks(mask_indices, mask_channel_indices) if mask else None
        found = self.encode(source, padding_mask, given, True, layer, corpus_key).features()
        return {name: found[name] for name in ("x", "padding_mask", "layer_results")}

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None, mask: bool = False, layer: int | None = None
    ) -> dict[str, Any]:
        """`forward` with `features_only`."""
        return self(source, padding_mask, mask=mask, features_only=True, layer=layer)
