"""wav2vec 2.0 for pre-training and feature extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.dataclass.utils import ConfigLike
from fairseq.masks.forward import FrameMask
from fairseq.masks.positions import gather_frames
from fairseq.models import register_model
from fairseq.models.wav2vec import contrastive
from fairseq.models.wav2vec.adapters import AdapterFast
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.config import (
    EXTRACTOR_MODE_CHOICES,
    LAYER_TYPE_CHOICES,
    MASKING_DISTRIBUTION_CHOICES,
    AudioModelConfig,
    Wav2Vec2Config,
)
from fairseq.models.wav2vec.conformer_encoder import ConformerEncoder
from fairseq.models.wav2vec.encoder import (
    TransformerEncoder,
    TransformerSentenceEncoderLayer,
    TransformerSentenceEncoderWithAdapterLayer,
)
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel
from fairseq.models.wav2vec.frame_weights import frame_weights, mean_of_frames
from fairseq.models.wav2vec.plateau import logit_temperature, mask_emb_bound
from fairseq.models.wav2vec.positional_convolution import make_conv_pos
from fairseq.models.wav2vec.stages import Encoded, GivenMasks
from fairseq.modules import GumbelVectorQuantizer
from fairseq.modules.gelu import GLU

__all__ = [
    "EXTRACTOR_MODE_CHOICES",
    "LAYER_TYPE_CHOICES",
    "MASKING_DISTRIBUTION_CHOICES",
    "AdapterFast",
    "ConformerEncoder",
    "ConvFeatureExtractionModel",
    "TransformerEncoder",
    "TransformerSentenceEncoderLayer",
    "TransformerSentenceEncoderWithAdapterLayer",
    "Wav2Vec2Config",
    "Wav2Vec2Model",
    "make_conv_pos",
]


@register_model("wav2vec2", dataclass=Wav2Vec2Config)
class Wav2Vec2Model(AudioModel):
    """Feature extractor, quantizer and encoder, trained with a contrastive task.

    Args:
        cfg: a Wav2Vec2Config, or a dict or DictConfig of its fields (missing ones take their defaults).
    Raises:
        ValueError: unknown or inconsistent config fields.
    """

    cfg: Wav2Vec2Config
    config_class = Wav2Vec2Config
    pretraining_only = ("quantizer", "project_q", "target_glu", "final_proj")

    def __init__(self, cfg: ConfigLike) -> None:
        super().__init__(cfg)
        settings = self.cfg
        final_dim = settings.final_dim if settings.final_dim > 0 else settings.encoder_embed_dim
        if settings.quantize_targets:
            self.quantizer = self._build_quantizer(settings.latent_dim if settings.latent_dim > 0 else final_dim)
        target_dim = self.embed if self.quantizer is None else self.quantizer.output_dim
        self.project_q: nn.Linear | None = nn.Linear(target_dim, final_dim)
        if settings.quantize_input:
            shared = self.quantizer if settings.same_quantizer else None
            own_dim = settings.latent_dim if settings.latent_dim > 0 else settings.encoder_embed_dim
            self.input_quantizer = self._build_quantizer(own_dim) if shared is None else shared
            self.project_inp = nn.Linear(self.input_quantizer.output_dim, settings.encoder_embed_dim)

        self.add_encoder(mask_emb_bound(settings))
        self.target_glu = nn.Sequential(nn.Linear(final_dim, final_dim * 2), GLU()) if settings.target_glu else None
        self.final_proj: nn.Linear | None = nn.Linear(settings.encoder_embed_dim, final_dim)

        self.updates_before = 0  # continued pre-training: updates of earlier runs, for the temperatures
        self.n_negatives = settings.num_negatives
        self.cross_sample_negatives = settings.cross_sample_negatives
        self.codebook_negatives = settings.codebook_negatives
        self.negatives_from_everywhere = settings.negatives_from_everywhere
        self.logit_temp = logit_temperature(settings, 0)

    def projects(self, cfg: AudioModelConfig) -> bool:
        return super().projects(cfg) and not cast(Wav2Vec2Config, cfg).quantize_input

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

    def set_num_updates(self, num_updates: int) -> None:
        """Set the temperatures of quantizers and logits for this update, plus `updates_before`."""
        super().set_num_updates(num_updates + self.updates_before)
        self.logit_temp = logit_temperature(self.cfg, num_updates + self.updates_before)

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
        corpus_key: Sequence[int] | None = None,
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
            corpus_key: the number of each utterance's language, B, for blocks with adapters; others ignore it.
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
        encoded = self.encode(source, padding_mask, given, features_only, layer, corpus_key)
        return encoded.features() if features_only else self.predict(encoded, negative_indices)

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

    def encoder_input(
        self, features: Tensor, padding_mask: Tensor | None, row_counts: Tensor | None
    ) -> tuple[Tensor, dict[str, Any]]:
        if self.input_quantizer is None:
            return features, {}
        statistics = self.input_quantizer(features, weights=frame_weights(features, padding_mask, row_counts))
        return self.project_inp(statistics.pop("x")), statistics

    def project_latents(self, latents: Tensor) -> Tensor:
        if self.input_quantizer is not None:
            return self.project_inp(self.input_quantizer(latents)["x"])
        return super().project_latents(latents)

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

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Tensor | None,
        mask: bool = False,
        layer: int | None = None,
        corpus_key: Sequence[int] | None = None,
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
