"""wav2vec 2.0 for pre-training and feature extraction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.dataclass.checks import refuse
from fairseq.dataclass.utils import ConfigLike, config_to_container, merge_with_parent
from fairseq.frames import frames_for_samples, parse_conv_layers
from fairseq.masks.forward import FrameMask, channel_mask, frame_mask, masked_frames
from fairseq.masks.positions import gather_frames
from fairseq.masks.settings import MaskSettings, setting_names
from fairseq.models import register_model
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec import contrastive
from fairseq.models.wav2vec.config import (
    EXTRACTOR_MODE_CHOICES,
    LAYER_TYPE_CHOICES,
    MASKING_DISTRIBUTION_CHOICES,
    Wav2Vec2Config,
)
from fairseq.models.wav2vec.conformer_encoder import ConformerEncoder
from fairseq.models.wav2vec.encoder import TransformerEncoder, TransformerSentenceEncoderLayer
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel
from fairseq.models.wav2vec.frame_weights import frame_weights, mean_of_frames
from fairseq.models.wav2vec.plateau import logit_temperature, mask_emb_bound
from fairseq.models.wav2vec.positional_convolution import make_conv_pos
from fairseq.models.wav2vec.stages import Encoded, GivenMasks, Latents
from fairseq.modules import FairseqDropout, GradMultiply, GumbelVectorQuantizer, LayerNorm
from fairseq.modules.gelu import GLU
from fairseq.modules.gradients import with_zero_gradients
from fairseq.modules.length_aware import valid_frames
from fairseq.modules.run_mode import RunMode
from fairseq.utils import index_put, is_traced

__all__ = [
    "EXTRACTOR_MODE_CHOICES",
    "LAYER_TYPE_CHOICES",
    "MASKING_DISTRIBUTION_CHOICES",
    "ConformerEncoder",
    "ConvFeatureExtractionModel",
    "TransformerEncoder",
    "TransformerSentenceEncoderLayer",
    "Wav2Vec2Config",
    "Wav2Vec2Model",
    "make_conv_pos",
]


@register_model("wav2vec2", dataclass=Wav2Vec2Config)
class Wav2Vec2Model(BaseFairseqModel):
    """Feature extractor, quantizer and encoder, trained with a contrastive task.

    Args:
        cfg: a Wav2Vec2Config, or a dict or DictConfig of its fields (missing ones take their defaults).
    Raises:
        ValueError: unknown or inconsistent config fields.
    """

    def __init__(self, cfg: ConfigLike) -> None:
        super().__init__()
        if not isinstance(cfg, Wav2Vec2Config):
            cfg = cast(Wav2Vec2Config, merge_with_parent(Wav2Vec2Config(), cfg))  # a DictConfig of these fields
        refuse(cfg, "model")
        self.cfg = cfg
        # fairseq: attributes, which callers set after loading. The forward pass reads these, not cfg: torch.compile
        # cannot trace omegaconf, and each access takes 20 microseconds
        settings = cfg if isinstance(cfg, Wav2Vec2Config) else Wav2Vec2Config(**config_to_container(cfg))
        for name in setting_names(settings):
            setattr(self, name, getattr(settings, name))
        self.conv_layers = parse_conv_layers(cfg.conv_feature_layers)
        self.embed = self.conv_layers[-1].dim
        final_dim = cfg.final_dim if cfg.final_dim > 0 else cfg.encoder_embed_dim

        # parameters are registered in fairseq's order: its optimizer state refers to them by index
        self.feature_extractor = ConvFeatureExtractionModel(
            self.conv_layers, mode=cfg.extractor_mode, conv_bias=cfg.conv_bias
        )
        projects = self.embed != cfg.encoder_embed_dim and not cfg.quantize_input
        self.post_extract_proj = nn.Linear(self.embed, cfg.encoder_embed_dim) if projects else None
        self.dropout_input = FairseqDropout(cfg.dropout_input)
        self.dropout_features = FairseqDropout(cfg.dropout_features)
        self.feature_grad_mult = cfg.feature_grad_mult

        self.quantizer: GumbelVectorQuantizer | None = None
        self.input_quantizer: GumbelVectorQuantizer | None = None
        if cfg.quantize_targets:
            self.quantizer = self._build_quantizer(cfg.latent_dim if cfg.latent_dim > 0 else final_dim)
        target_dim = self.embed if self.quantizer is None else self.quantizer.output_dim
        self.project_q: nn.Linear | None = nn.Linear(target_dim, final_dim)
        if cfg.quantize_input:
            shared = self.quantizer if cfg.same_quantizer else None
            own_dim = cfg.latent_dim if cfg.latent_dim > 0 else cfg.encoder_embed_dim
            self.input_quantizer = self._build_quantizer(own_dim) if shared is None else shared
            self.project_inp = nn.Linear(self.input_quantizer.output_dim, cfg.encoder_embed_dim)

        self.mask_emb = nn.Parameter(torch.empty(cfg.encoder_embed_dim).uniform_() * mask_emb_bound(cfg))
        sees_positions_in_attention = cfg.layer_type == "conformer" and cfg.pos_enc_type in ("rel_pos", "rope")
        self.encoder = ConformerEncoder(cfg) if sees_positions_in_attention else TransformerEncoder(cfg)
        self.layer_norm = LayerNorm(self.embed)
        self.target_glu = nn.Sequential(nn.Linear(final_dim, final_dim * 2), GLU()) if cfg.target_glu else None
        self.final_proj: nn.Linear | None = nn.Linear(cfg.encoder_embed_dim, final_dim)

        self.length_aware = False  # this and looks_for_padding: see RunMode
        self.looks_for_padding = True
        self.updates_before = 0  # continued pre-training: updates of earlier runs, for the temperatures
        self.n_negatives = cfg.num_negatives
        self.cross_sample_negatives = cfg.cross_sample_negatives
        self.codebook_negatives = cfg.codebook_negatives
        self.negatives_from_everywhere = cfg.negatives_from_everywhere
        self.logit_temp = logit_temperature(cfg, 0)

    def _build_quantizer(self, vq_dim: int) -> GumbelVectorQuantizer:
        cfg = self.cfg
        return GumbelVectorQuantizer(
            dim=self.embed,
            num_vars=cfg.latent_vars,
            temp=cfg.latent_temp,
            groups=cfg.latent_groups,
            combine_groups=False,
            vq_dim=vq_dim,
            time_first=True,
            weight_proj_depth=cfg.quantizer_depth,
            weight_proj_factor=cfg.quantizer_factor,
        )

    @classmethod
    def build_model(cls, cfg: ConfigLike, task: Any = None) -> Wav2Vec2Model:
        return cls(cfg)

    def set_num_updates(self, num_updates: int) -> None:
        """Set the temperatures of quantizers and logits for this update, plus `updates_before`."""
        super().set_num_updates(num_updates + self.updates_before)
        self.logit_temp = logit_temperature(self.cfg, num_updates + self.updates_before)

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
        masked_positions: Tensor | None = None,
        masked_weights: Tensor | None = None,
        negative_indices: Tensor | None = None,
        corpus_key: Any = None,
    ) -> dict[str, Any]:
        """Predict the masked frames' targets, or return features.

        Args:
            source: raw audio, B x S.
            padding_mask: B x S, any dtype, nonzero where a sample is padding; None: no padding.
            mask: mask frames (and channels).
            features_only: stop after the encoder.
            layer: stop the encoder after this block (0 is the first), without a pre-norm model's final norm. A
                negative number, or one past the last block, runs all blocks.
            mask_indices: masked frames, bool, B x T. Without positions it is read on the host; None with `mask` draws
                it from the config.
            mask_channel_indices: masked channels, bool, B x C.
            padding_count: ignored (fairseq's callers pass it); positions and weights replace it.
            corpus_key: ignored (fairseq's callers pass it); only adapters would need it.
            masked_positions: the masked frames, int64 (or int32), B x M.
            masked_weights: their weights, float32, B x M; filler has weight 0 and comes last. A row with no weight
                above 0 is left out of the loss, the codebook's statistics and the feature penalty.
            negative_indices: use these negatives instead of drawing them, int64, B x M x N, into the utterance's M
                masked frames.
        Returns:
            With `features_only`: x (B x T x C), padding_mask (bool, B x T; None without padding), features
            (before masking, B x T x C), layer_results. Else: x (logits, (1+N) x B x M, fp32, the positive first),
            padding_mask, features_pen, masked_weights, and with a quantizer prob_perplexity, code_perplexity,
            code_counts (G x V), num_vars, temp.
        Raises:
            ValueError: the masks are inconsistent, no frames are masked, or there are no negatives.
        """
        given = GivenMasks(mask_indices, mask_channel_indices, masked_positions, masked_weights) if mask else None
        encoded = self.encode(source, padding_mask, given, features_only, layer)
        return encoded.features() if features_only else self.predict(encoded, negative_indices)

    def encode(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        given: GivenMasks | None = None,
        features_only: bool = False,
        layer: int | None = None,
    ) -> Encoded:
        """Encode raw audio: latents, masking, context (Baevski et al. 2020, figure 1, from the bottom to C).

        Args:
            source: see `forward`.
            padding_mask: see `forward`.
            given: the masks; None masks nothing.
            features_only: see `forward`.
            layer: see `forward`.
        Raises:
            ValueError: the masks are inconsistent.
        """
        latents = self._extract(source, self._padding(padding_mask, features_only))
        features, padding_mask = latents.features, latents.padding_mask
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
        statistics: dict[str, Any] = {}
        if self.input_quantizer is not None:
            statistics = self.input_quantizer(features, weights=frame_weights(features, padding_mask, row_counts))
            features = self.project_inp(statistics.pop("x"))
        if frames is not None and given is not None:
            features = self._cover(features, frames.indices, given.channels)
        elif given is not None:
            features, _ = self.apply_mask(features, padding_mask, given.indices, given.channels)

        context, layer_results = self.encoder(features, padding_mask=padding_mask, layer=layer)
        if self.training and self.encoder.static_layerdrop:  # hpu, and several processes: the same graph, frozen or not
            context = with_zero_gradients(context, self.frozen_parameters())
        return Encoded(context, layer_results, unmasked, padding_mask, frames, row_counts, statistics, latents)

    def predict(self, encoded: Encoded, negative_indices: Tensor | None = None) -> dict[str, Any]:
        """Find each masked frame's quantized target among negatives (same figure, Q and the contrastive loss).

        Returns:
            See `forward`.
        Raises:
            ValueError: no frames are masked, or there are no negatives.
        """
        frames = encoded.frames
        if frames is None:
            raise ValueError(
                "No frames are masked, so there is nothing to predict. Pass mask=True, with mask_indices or a "
                "model.mask_prob above 0."
            )
        assert self.final_proj is not None, "remove_pretraining_modules was called"
        everywhere = frame_weights(encoded.unmasked, encoded.padding_mask, encoded.row_counts)
        candidates, statistics = self._targets(encoded.unmasked, frames, everywhere)
        x = self.final_proj(gather_frames(encoded.context, frames.positions))
        logits = self._contrast(x, candidates, frames, negative_indices)
        penalty = mean_of_frames(encoded.latents.squares, encoded.latents.valid, encoded.row_counts)
        return {
            "x": logits.permute(2, 0, 1),
            "padding_mask": encoded.padding_mask,
            "features_pen": penalty,
            "masked_weights": frames.weights,
            **encoded.input_statistics,
            **statistics,
        }

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

    # -- targets and negatives -----------------------------------------------------------------------------------------

    def _targets(
        self, unmasked: Tensor, frames: FrameMask, everywhere: Tensor | None
    ) -> tuple[contrastive.Candidates, dict[str, Any]]:
        """The candidates of the contrastive task, and the quantizer's statistics.

        Args:
            unmasked: B x T x C.
            everywhere: weights of all frames, B x T; None: all 1.
        """
        B, T = unmasked.shape[:2]
        M = frames.positions.size(1)
        if self.negatives_from_everywhere:
            y, weights, own = unmasked, everywhere, frames.positions
            counts = torch.full((B,), T, device=y.device) if everywhere is None else (everywhere > 0).sum(dim=1)
        else:
            y, weights = gather_frames(unmasked, frames.positions), frames.weights
            own = torch.arange(M, device=y.device).expand(B, M)
            counts = (frames.weights > 0).sum(dim=1)
        codes = None
        statistics: dict[str, Any] = {}
        if self.quantizer is not None:
            statistics = self.quantizer(y, produce_targets=True, weights=weights)
            y = statistics.pop("x")
            codes = self.quantizer.to_codebook_index(statistics.pop("targets"))
        return contrastive.Candidates(self._project_targets(y), codes, counts, own), statistics

    def _project_targets(self, y: Tensor) -> Tensor:
        assert self.project_q is not None, "remove_pretraining_modules was called"
        y = self.project_q(y)
        return y if self.target_glu is None else self.target_glu(y)

    def _contrast(
        self, x: Tensor, candidates: contrastive.Candidates, frames: FrameMask, negative_indices: Tensor | None
    ) -> Tensor:
        """Logits of the positive and all negatives, B x M x (1+N), fp32; x is B x M x D."""
        within = negative_indices
        if within is None:
            within = contrastive.draw_within_rows(candidates, self.n_negatives)
        else:
            within = within.long()
            if (
                self.negatives_from_everywhere
            ):  # the caller's indices are into masked frames, the candidates are all frames
                within = frames.positions.gather(1, within.flatten(1)).view(within.shape)
        if within.size(2) + self.cross_sample_negatives + self.codebook_negatives == 0:
            raise ValueError(
                "There are no negatives. Set model.num_negatives, model.cross_sample_negatives or "
                "model.codebook_negatives above 0."
            )

        with device_layer.of(x).full_precision():
            logits = [contrastive.logits_within_rows(x, candidates, within, self.logit_temp)]
            if self.cross_sample_negatives > 0:
                across = contrastive.draw_across_rows(candidates, self.cross_sample_negatives)
                logits.append(contrastive.logits_across_rows(x, candidates, across, self.logit_temp))
            if self.codebook_negatives > 0:
                logits.append(self._codebook_logits(x, candidates))
            return torch.cat(logits, dim=2) if len(logits) > 1 else logits[0]

    def _codebook_logits(self, x: Tensor, candidates: contrastive.Candidates) -> Tensor:
        """Logits of codewords drawn from the whole codebook per masked frame, B x M x N."""
        assert self.quantizer is not None and candidates.codes is not None
        codes = self.quantizer.draw_codes(*x.shape[:2], self.codebook_negatives)
        drawn = self._project_targets(self.quantizer.look_up(codes))
        positive = candidates.codes.gather(1, candidates.own).unsqueeze(-1)
        return contrastive.logits_against_codebook(
            x, drawn, self.quantizer.to_codebook_index(codes) == positive, self.logit_temp
        )

    def sample_negatives(self, y: Tensor, num: int, padding_count: int | None = None) -> tuple[Tensor, Tensor]:
        """Negatives under fairseq's name, for other losses. See `contrastive.sample_negatives`."""
        return contrastive.sample_negatives(y, num, self.n_negatives, self.cross_sample_negatives, padding_count)

    def compute_preds(self, x: Tensor, y: Tensor, negatives: Tensor) -> Tensor:
        """Logits under fairseq's name, for other losses. See `contrastive.compute_preds`."""
        return contrastive.compute_preds(x, y, negatives, self.logit_temp)

    # -- used by criteria and tools ------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized frames (B x T x (G*D)) and their codes (B x T x G) of raw audio B x S."""
        if self.quantizer is None:
            raise ValueError(
                "This model has no quantizer: either model.quantize_targets is false, or its pre-training modules "
                "were removed. Use a pre-trained checkpoint with model.quantize_targets=true."
            )
        features = self.feature_extractor(x).transpose(1, 2)
        return self.quantizer.forward_idx(self.layer_norm(features))

    def latents(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The feature extractor's frames after layer norm, B x T x C: input of projection and quantizer."""
        return self._extract(source, None if padding_mask is None else padding_mask.bool()).features

    def project_latents(self, latents: Tensor) -> Tensor:
        """The encoder's input for such frames, without masks and dropout: B x T x C."""
        if self.input_quantizer is not None:
            return self.project_inp(self.input_quantizer(latents)["x"])
        return latents if self.post_extract_proj is None else self.post_extract_proj(latents)

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Tensor | None,
        mask: bool = False,
        layer: int | None = None,
        corpus_key: Any = None,
    ) -> dict[str, Any]:
        """`forward` with `features_only`."""
        return self(source, padding_mask, mask=mask, features_only=True, layer=layer, corpus_key=corpus_key)

    def get_logits(self, net_output: Mapping[str, Any]) -> Tensor:
        """(M*B) x (1+N), position-major: all utterances' first masked frames, then all their second ones."""
        return net_output["x"].transpose(0, 2).flatten(0, 1)

    def get_targets(self, sample: Any, net_output: Mapping[str, Any], expand_steps: bool = True) -> Tensor:
        """M*B class indices, int64: 0 (the positive is candidate 0), or -100 for filler, which losses ignore."""
        return torch.where(net_output["masked_weights"].t().flatten() > 0, 0, -100)

    def get_extra_losses(self, net_output: Mapping[str, Any]) -> list[Tensor]:
        """Losses per masked frame, 0-dim: diversity, 1 - perplexity / (G*V), with a quantizer; feature penalty."""
        losses = []
        if "prob_perplexity" in net_output:
            losses.append((net_output["num_vars"] - net_output["prob_perplexity"]) / net_output["num_vars"])
        if "features_pen" in net_output:
            losses.append(net_output["features_pen"])
        return losses

    def remove_pretraining_modules(self, last_layer: int | None = None) -> None:
        """Remove the modules that only the contrastive task needs, and blocks after `last_layer`."""
        self.quantizer = None
        self.project_q = None
        self.target_glu = None
        self.final_proj = None
        if last_layer is not None:
            self.encoder.layers = self.encoder.layers[: last_layer + 1]
