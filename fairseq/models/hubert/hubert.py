"""HuBERT for feature extraction. Its pre-training, the prediction of cluster labels, is not offered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Optional, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fairseq.dataclass.utils import ConfigLike, merge_with_parent
from fairseq.frames import frames_for_samples
from fairseq.models import register_model
from fairseq.models.hubert.config import HubertConfig
from fairseq.models.wav2vec.audio_config import (
    EXTRACTOR_MODE_CHOICES,
    LAYER_TYPE_CHOICES,
    MASKING_DISTRIBUTION_CHOICES,
    AudioModelConfig,
)
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.encoder import TransformerEncoder
from fairseq.models.wav2vec.positional_convolution import batch_norm_conv_pos
from fairseq.models.wav2vec.stages import GivenMasks
from fairseq.modules import GradMultiply
from fairseq.modules.gelu import GLU

__all__ = [
    "EXTRACTOR_MODE_CHOICES",
    "LAYER_TYPE_CHOICES",
    "MASKING_DISTRIBUTION_CHOICES",
    "HubertConfig",
    "HubertModel",
]


class HasSampleRate(Protocol):
    """The config of a task that reads audio."""

    sample_rate: int  # Hz


@runtime_checkable
class HasLabels(Protocol):
    """A task with the dictionaries of HuBERT's labels; None where a dictionary is not at hand."""

    @property
    def cfg(self) -> HasSampleRate: ...

    @property
    def dictionaries(self) -> Sequence[Sized | None]: ...


class HubertTransformerEncoder(TransformerEncoder):
    """The transformer encoder, in which the positional convolution can have a batch norm."""

    def build_pos_conv(self, args: AudioModelConfig) -> nn.Sequential:
        if not cast(HubertConfig, args).conv_pos_batch_norm:
            return super().build_pos_conv(args)
        return batch_norm_conv_pos(args.encoder_embed_dim, args.conv_pos, args.conv_pos_groups)


@register_model("hubert", dataclass=HubertConfig)
class HubertModel(AudioModel):
    """Feature extractor, encoder, and embeddings of the cluster labels that pre-training predicts.

    Args:
        cfg: a HubertConfig, or a dict or DictConfig of its fields.
        task_cfg: the config of the task, for its sample rate; None: no labels.
        dictionaries: one per set of labels; None for one that is not at hand: the embeddings are then made when
            weights are loaded.
    Raises:
        ValueError: unknown or inconsistent config fields.
    """

    cfg: HubertConfig
    config_class = HubertConfig
    pretraining_only = ("target_glu", "final_proj", "label_embs_concat")
    pretraining_task = "hubert_pretraining"

    def __init__(
        self, cfg: ConfigLike, task_cfg: HasSampleRate | None = None, dictionaries: Sequence[Sized | None] = (None,)
    ) -> None:
        super().__init__(cfg)
        settings = self.cfg
        final_dim = settings.final_dim if settings.final_dim > 0 else settings.encoder_embed_dim
        if task_cfg is not None:
            stride = math.prod(layer.stride for layer in self.conv_layers)
            self.feat2tar_ratio = settings.label_rate * stride / task_cfg.sample_rate
        self.add_encoder()
        self.target_glu = nn.Sequential(nn.Linear(final_dim, final_dim * 2), GLU()) if settings.target_glu else None
        self.untie_final_proj = settings.untie_final_proj
        width = final_dim * len(dictionaries) if settings.untie_final_proj else final_dim
        self.final_proj: nn.Linear | None = nn.Linear(settings.encoder_embed_dim, width)
        self.label_embs_concat: nn.Parameter | None
        known = [dictionary for dictionary in dictionaries if dictionary is not None]
        if len(known) < len(dictionaries):
            self.register_parameter("label_embs_concat", None)
        else:
            self.num_classes = [len(dictionary) for dictionary in known]
            self.label_embs_concat = nn.Parameter(torch.empty(sum(self.num_classes), final_dim).uniform_())
        self.logit_temp = settings.logit_temp
        self.skip_masked = settings.skip_masked
        self.skip_nomask = settings.skip_nomask

    def build_encoder(self, cfg: AudioModelConfig) -> TransformerEncoder:
        return HubertTransformerEncoder(cfg)

    @classmethod
    def build_model(cls, cfg: ConfigLike, task: object = None) -> HubertModel:
        """Build the model; a task without label dictionaries gives one that has no label embeddings yet."""
        return cls(cfg, task.cfg, task.dictionaries) if isinstance(task, HasLabels) else cls(cfg)

    @classmethod
    def for_encoding(cls, pretraining: Mapping[str, Any]) -> HubertModel:
        cfg = merge_with_parent(HubertConfig(), dict(pretraining["model"]), remove_missing=True)
        model = cls(cfg)
        model.remove_pretraining_modules()
        return model

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Make the label embeddings of a file whose dictionaries are not at hand, and their projections."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix, device = f"{name}." if name else "", self.mask_emb.device
        found, weight = (state_dict.get(f"{prefix}{part}") for part in ("label_embs_concat", "final_proj.weight"))
        if not isinstance(found, Tensor) or self.label_embs_concat is not None or self.final_proj is None:
            return
        self.label_embs_concat = nn.Parameter(torch.empty_like(found, device=device))
        # one for each set of labels, whose number only the task has
        if self.untie_final_proj and isinstance(weight, Tensor) and weight.dim() == 2:
            self.final_proj = nn.Linear(self.final_proj.in_features, weight.size(0), device=device)

    # -- the forward pass ----------------------------------------------------------------------------------------------

    def forward(
        self,
        source: Tensor,
        target_list: Optional[list[Tensor]] = None,
        padding_mask: Optional[Tensor] = None,
        mask: bool = True,
        features_only: bool = False,
        output_layer: Optional[int] = None,
    ) -> dict[str, Any]:
        """Return features.

        Args:
            source: raw audio, B x S.
            target_list: must be None.
            padding_mask: B x S, any dtype, nonzero where a sample is padding; None: no padding.
            mask: mask frames (and channels), drawn from the config.
            features_only: must be true.
            output_layer: stop after this block, counted from 1, without a pre-norm model's final norm; None: all.
        Returns:
            x (B x T x C); padding_mask (bool, B x T; None only if none was passed); features (the encoder's input, B x
            T x C, with zeros in padding frames).
        Raises:
            ValueError: a pre-training pass is asked for.
        """
        if target_list is not None or not features_only:
            raise ValueError(
                "HuBERT's pre-training is not offered: this package extracts features with HuBERT and fine-tunes it "
                "with CTC. Call model(source, padding_mask=..., mask=False, features_only=True), or "
                "model.extract_features(source)."
            )
        layer = None if output_layer is None else output_layer - 1
        given = GivenMasks() if mask else None
        frame_padding = self.frame_padding(source, padding_mask)
        encoded = self.encode(source, padding_mask, given, True, layer, frame_padding=frame_padding)
        features, padding = encoded.inputs, encoded.padding_mask
        if padding is not None:  # fairseq: the encoder zeroes these frames in place
            features = features.masked_fill(padding.unsqueeze(-1), 0)
        return {"x": encoded.context, "padding_mask": padding, "features": features}

    def extract_features(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's signature for HuBERT
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        ret_conv: bool = False,
        output_layer: Optional[int] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Return features and padding.

        Args:
            source: see `forward`.
            padding_mask: see `forward`.
            mask: see `forward`.
            ret_conv: return the encoder's input instead of its output.
            output_layer: see `forward`.
        Returns:
            B x T x C, and bool, B x T, or None.
        """
        found = self(source, padding_mask=padding_mask, mask=mask, features_only=True, output_layer=output_layer)
        return found["features"] if ret_conv else found["x"], found["padding_mask"]

    def forward_features(self, source: Tensor) -> Tensor:
        """The extractor's frames of raw audio, B x S -> B x C x T, without layer norm."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = self.feature_extractor(source)
        return (
            features if self.feature_grad_mult in (0.0, 1.0) else GradMultiply.apply(features, self.feature_grad_mult)
        )

    def forward_padding_mask(self, features: Tensor, padding_mask: Tensor) -> Tensor:
        """Padding of frames, bool, B x T, for features B x T x C and the padding of samples, B x S.

        fairseq: the samples are divided into T equal shares, and a frame is padding if all of its share is. That can
        differ from the convolutions' arithmetic by a frame or more.
        """
        return self._shares(padding_mask, features.size(1))

    @staticmethod
    def _shares(padding_mask: Tensor, num_frames: int) -> Tensor:
        share = padding_mask.size(1) // num_frames
        rows = padding_mask[:, : share * num_frames].bool()
        return rows.view(rows.size(0), num_frames, share).all(-1)

    def frame_padding(self, source: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """See AudioModel. A length-aware model (RunMode) keeps the convolutions' arithmetic."""
        if padding_mask is None or self.length_aware:
            return None
        num_frames = cast(int, frames_for_samples(source.size(1), self.conv_layers))
        return self._shares(padding_mask, num_frames - num_frames % self.cfg.crop_seq_to_multiple)
