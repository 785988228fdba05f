"""The part that all audio models share: raw audio to latent frames, masks, encoder.

A model is a subclass and a config dataclass in a package of its own, registered with `register_model`. Nothing else
lists the models: places that open, fine-tune, convert or describe one ask `fairseq.models.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.dataclass.checks import refuse
from fairseq.dataclass.utils import ConfigLike, config_to_container, merge_with_parent
from fairseq.frames import frames_for_samples, parse_conv_layers
from fairseq.masks.forward import channel_mask, frame_mask, masked_frames
from fairseq.masks.settings import MaskSettings, setting_names
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec.audio_config import AudioModelConfig
from fairseq.models.wav2vec.conformer_encoder import ConformerEncoder
from fairseq.models.wav2vec.encoder import TransformerEncoder
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel
from fairseq.models.wav2vec.stages import Encoded, GivenMasks, Latents
from fairseq.modules import FairseqDropout, GradMultiply, GumbelVectorQuantizer, LayerNorm
from fairseq.modules.gradients import with_zero_gradients
from fairseq.modules.length_aware import valid_frames
from fairseq.modules.run_mode import RunMode
from fairseq.utils import index_put, is_traced

Model = TypeVar("Model", bound="AudioModel")


class AudioModel(BaseFairseqModel):
    """Feature extractor, projection, masks and encoder.

    A subclass's constructor calls this one, then `add_encoder`, and registers its own modules between and after them:
    parameters have fairseq's order, since its optimizer state refers to them by index.

    Args:
        cfg: the subclass's `config_class`, or a dict or DictConfig of its fields (missing ones take their defaults).
    Raises:
        ValueError: unknown or inconsistent config fields.
    """

    config_class: ClassVar[type[AudioModelConfig]] = AudioModelConfig
    # names of modules and parameters that only pre-training needs
    pretraining_only: ClassVar[tuple[str, ...]] = ()
    pretraining_task: ClassVar[str] = "audio_pretraining"  # the task in files of pre-trained models

    def __init__(self, cfg: ConfigLike) -> None:
        super().__init__()
        if not isinstance(cfg, self.config_class):
            cfg = cast(AudioModelConfig, merge_with_parent(self.config_class(), cfg))  # a DictConfig of these fields
        refuse(cfg, "model")
        self.cfg = cfg
        # fairseq: attributes, which callers set after loading. The forward pass reads these, not cfg: torch.compile
        # cannot trace omegaconf, and each access takes 20 microseconds
        settings = cfg if isinstance(cfg, self.config_class) else self.config_class(**config_to_container(cfg))
        for name in setting_names(settings):
            setattr(self, name, getattr(settings, name))
        self.conv_layers = parse_conv_layers(cfg.conv_feature_layers)
        self.embed = self.conv_layers[-1].dim

        self.feature_extractor = ConvFeatureExtractionModel(
            self.conv_layers, mode=cfg.extractor_mode, conv_bias=cfg.conv_bias
        )
        self.post_extract_proj = nn.Linear(self.embed, cfg.encoder_embed_dim) if self.projects(cfg) else None
        self.dropout_input = FairseqDropout(cfg.dropout_input)
        self.dropout_features = FairseqDropout(cfg.dropout_features)
        self.feature_grad_mult = cfg.feature_grad_mult
        self.quantizer: GumbelVectorQuantizer | None = None
        self.input_quantizer: GumbelVectorQuantizer | None = None
        self.length_aware = False  # this and looks_for_padding: see RunMode
        self.looks_for_padding = True

    def add_encoder(self, mask_emb_bound: float = 1.0) -> None:
        """Register the mask embedding, with values from 0 to this bound, the encoder and its input's layer norm."""
        cfg = self.cfg
        self.mask_emb = nn.Parameter(torch.empty(cfg.encoder_embed_dim).uniform_() * mask_emb_bound)
        self.encoder = self.build_encoder(cfg)
        self.layer_norm = LayerNorm(self.embed)

    def projects(self, cfg: AudioModelConfig) -> bool:
        """Whether a linear layer takes the extractor's frames to the encoder's width."""
        return self.embed != cfg.encoder_embed_dim

    def build_encoder(self, cfg: AudioModelConfig) -> TransformerEncoder:
        """Build the encoder of this config."""
        sees_positions_in_attention = cfg.layer_type == "conformer" and cfg.pos_enc_type in ("rel_pos", "rope")
        return ConformerEncoder(cfg) if sees_positions_in_attention else TransformerEncoder(cfg)

    @classmethod
    def build_model(cls: type[Model], cfg: ConfigLike, task: Any = None) -> Model:
        return cls(cfg)

    @classmethod
    def for_encoding(cls: type[Model], pretraining: Mapping[str, Any]) -> Model:
        """Build the model without what only pre-training needs, as fine-tuning uses it.

        Args:
            pretraining: the config of the pre-training, with the group `model`. Fields that this version does not have
                are dropped.
        """
        cfg = merge_with_parent(cls.config_class(), dict(pretraining["model"]), remove_missing=True)
        model = cls.build_model(cfg)
        model.remove_pretraining_modules()
        return model

    @classmethod
    def is_pretraining_only(cls, parameter: str) -> bool:
        """Whether a parameter of this name in a checkpoint belongs to the pre-training's objective."""
        return parameter.partition(".")[0] in cls.pretraining_only

    def take_run_mode(self, mode: RunMode) -> None:
        """See RunMode."""
        if mode.length_aware is not None:
            self.length_aware = mode.length_aware
        if mode.looks_for_padding is not None:
            self.looks_for_padding = mode.looks_for_padding

    def sharded_parts(self) -> list[nn.Module]:
        """The feature extractor; the encoder names its own parts. See `fairseq.distributed.fully_sharded`."""
        return [self.feature_extractor]

    @property
    def mask_settings(self) -> MaskSettings:
        """Settings for drawing masks: attributes of this model."""
        return cast(MaskSettings, self)

    def frozen_parameters(self) -> list[Tensor]:
        """The feature extractor's, if `feature_grad_mult` is 0."""
        return [] if self.feature_grad_mult > 0 else list(self.feature_extractor.parameters())

    def max_positions(self) -> int | None:
        """Audio of any length, as in fairseq."""
        return None

    # -- the forward pass ----------------------------------------------------------------------------------------------

    def encode(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        given: GivenMasks | None = None,
        features_only: bool = False,
        layer: int | None = None,
        corpus_key: Sequence[int] | None = None,
        frame_padding: Tensor | None = None,
    ) -> Encoded:
        """Encode raw audio: latents, masking, context (Baevski et al. 2020, figure 1, from the bottom to C).

        Args:
            source: raw audio, B x S.
            padding_mask: B x S, any dtype, nonzero where a sample is padding; None: no padding.
            given: the masks; None masks nothing.
            features_only: no targets are needed: masks may be drawn per row, and an empty padding mask becomes None.
            layer: stop the encoder after this block (0 is the first), without a pre-norm model's final norm. A
                negative number, or one past the last block, runs all blocks.
            corpus_key: the number of each utterance's language, B, for blocks with adapters.
            frame_padding: bool, B x T, replaces the padding of frames that follows from `padding_mask`.
        Raises:
            ValueError: the masks are inconsistent.
        """
        latents = self._extract(source, self._padding(padding_mask, features_only))
        features = latents.features
        padding_mask = latents.padding_mask if frame_padding is None else frame_padding
        unmasked = self.dropout_features(features)
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        features = self.dropout_input(features)

        frames = None
        if given is not None and not (features_only and given.positions is None):
            # hpu: static shapes: M positions per row for each batch shape, with filler of weight 0, instead of boolean
            # indexing
            settings = self.mask_settings
            frames = frame_mask(settings, features, padding_mask, given.indices, given.positions, given.weights)
        row_counts = None if frames is None else (frames.weights > 0).any(dim=1)
        features, statistics = self.encoder_input(features, padding_mask, row_counts)
        if frames is not None and given is not None:
            features = self._cover(features, frames.indices, given.channels)
        elif given is not None:
            features, _ = self.apply_mask(features, padding_mask, given.indices, given.channels)

        context, layer_results = self.encoder(features, padding_mask=padding_mask, layer=layer, corpus_key=corpus_key)
        if self.training and self.encoder.static_layerdrop:  # hpu, and several processes: the same graph, frozen or not
            context = with_zero_gradients(context, self.frozen_parameters())
        return Encoded(
            context, layer_results, unmasked, features, padding_mask, frames, row_counts, statistics, latents
        )

    def encoder_input(
        self, features: Tensor, padding_mask: Tensor | None, row_counts: Tensor | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Change the projected frames before they are masked, B x T x C; also return statistics for the log."""
        return features, {}

    def _padding(self, padding_mask: Tensor | None, features_only: bool) -> Tensor | None:
        """A caller's padding mask as bool; None if it marks no padding.

        That check waits for the device, so only feature extraction in evaluation mode does it: not training, not the
        trainer's validation (its batches always have a mask), and not graph recording, since the next input can have
        padding.
        """
        if padding_mask is None:
            return None
        padding_mask = padding_mask.bool()
        recorded = is_traced() or torch.compiler.is_compiling()
        looks = features_only and self.looks_for_padding and not self.training and not recorded
        return None if looks and not padding_mask.any() else padding_mask

    def frame_padding(self, source: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """Padding of frames that fairseq's callers of this model expect, bool, B x T.

        None where it follows from the convolutions' arithmetic, as `encode` computes it.
        """
        return None

    def _extract(self, source: Tensor, padding_mask: Tensor | None) -> Latents:
        """Compute layer-normed frames from raw audio, cropped to the config's multiple."""
        num_samples = None if padding_mask is None else (~padding_mask).sum(dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.feature_grad_mult > 0):
            features = self.feature_extractor(source, num_samples if self.length_aware else None)
        if self.feature_grad_mult not in (0.0, 1.0):
            features = GradMultiply.apply(features, self.feature_grad_mult)
        features = features.transpose(1, 2)
        with device_layer.of(features).full_precision():
            squares = features.float().square().mean(dim=2)
        valid = None
        if num_samples is not None:
            # at least one: attention over no frames is NaN, and NaN times weight 0 is NaN
            valid = valid_frames(self._get_feat_extract_output_lengths(num_samples), features.size(1))
        frames = features.size(1) - features.size(1) % self.crop_seq_to_multiple
        return Latents(
            self.layer_norm(features[:, :frames]), None if valid is None else ~valid[:, :frames], squares, valid
        )

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Number of frames for a number of valid samples."""
        return frames_for_samples(input_lengths, self.conv_layers)

    def apply_mask(
        self,
        x: Tensor,
        padding_mask: Tensor | None,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mask frames and channels according to `mask_prob` and the other attributes.

        Args:
            x: B x T x C; it is not changed.
            padding_mask: B x T, any dtype, nonzero for frames not to mask; None: no padding.
            mask_indices: masked frames, bool, B x T; None draws them. Ignored if `mask_prob` is 0.
            mask_channel_indices: masked channels, bool, B x C or B x T x C; None draws them. Ignored if
                `mask_channel_prob` is 0.
        Returns:
            x with `mask_emb` in masked frames and 0 in masked channels, and the masked frames (bool, B x T; None
            if no frames are masked).
        """
        padding_mask = None if padding_mask is None else padding_mask.bool()
        hidden = masked_frames(self.mask_settings, x, padding_mask, mask_indices)
        return self._cover(x, hidden, mask_channel_indices), hidden

    def _cover(self, x: Tensor, hidden: Tensor | None, mask_channel_indices: Tensor | None) -> Tensor:
        """Put `mask_emb` into masked frames (bool, B x T) and 0 into masked channels."""
        channels = channel_mask(self.mask_settings, x, mask_channel_indices)
        if channels is not None and self.mask_channel_before:
            x = x.masked_fill(channels, 0)
        if hidden is not None:
            x = index_put(x, hidden, self.mask_emb)
        if channels is not None and not self.mask_channel_before:
            x = x.masked_fill(channels, 0)
        return x

    def latents(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The feature extractor's frames after layer norm, B x T x C: input of projection and quantizer."""
        return self._extract(source, None if padding_mask is None else padding_mask.bool()).features

    def project_latents(self, latents: Tensor) -> Tensor:
        """The encoder's input for such frames, without masks and dropout: B x T x C."""
        return latents if self.post_extract_proj is None else self.post_extract_proj(latents)

    def remove_pretraining_modules(self, last_layer: int | None = None) -> None:
        """Remove what only pre-training needs (`pretraining_only`), and blocks after `last_layer`."""
        for name in self.pretraining_only:
            if hasattr(self, name):
                setattr(self, name, None)
        if last_layer is not None:
            self.encoder.layers = self.encoder.layers[: last_layer + 1]
