"""wav2vec 2.0 with an output layer over a dictionary's symbols, trained with CTC."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.dataclass.utils import ConfigLike, merge_with_parent, plain
from fairseq.models import bounded, kinds, register_model
from fairseq.models.fairseq_encoder import FairseqEncoder
from fairseq.models.fairseq_model import BaseFairseqModel, Outputs
from fairseq.models.wav2vec import pretrained, tuning
from fairseq.models.wav2vec.asr_config import BLANK_MODE_CHOICES, Wav2Vec2AsrConfig, Wav2Vec2CtcConfig
from fairseq.models.wav2vec.audio_config import AudioModelConfig
from fairseq.models.wav2vec.stages import Encoded, GivenMasks
from fairseq.modules import FairseqDropout
from fairseq.modules.gradients import with_zero_gradients

__all__ = [
    "BLANK_MODE_CHOICES",
    "Embedding",
    "Linear",
    "Wav2Vec2AsrConfig",
    "Wav2Vec2CtcConfig",
    "Wav2VecCtc",
    "Wav2VecEncoder",
    "base_architecture",
]

logger = logging.getLogger(__name__)


class HasTargetDictionary(Protocol):
    """A task with the symbols of the output layer; None: no output layer."""

    @property
    def target_dictionary(self) -> Sized | None: ...


BLANK = 0  # fairseq: <s>, the dictionary's first symbol, is CTC's blank


@register_model("wav2vec_ctc", dataclass=Wav2Vec2CtcConfig)
class Wav2VecCtc(BaseFairseqModel):
    """Predict a symbol per frame; CTC aligns symbols and frames."""

    outputs = Outputs("audio_finetuning", "ctc")
    config_class: ClassVar[type[Wav2Vec2CtcConfig]] = Wav2Vec2CtcConfig

    def __init__(self, cfg: Wav2Vec2CtcConfig | DictConfig, w2v_encoder: Wav2VecEncoder) -> None:
        super().__init__()
        self.cfg = cfg
        self.w2v_encoder = w2v_encoder
        self.blank_weight = cfg.blank_weight
        self.blank_mode = str(cfg.blank_mode)

    @classmethod
    def build_model(cls, cfg: ConfigLike, task: Any) -> Wav2VecCtc:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Build the model.

        If `w2v_args` is set, it describes the encoder: `w2v_path` is not opened, and masks, dropouts, layerdrop and
        feature_grad_mult of this config are not applied. Otherwise `w2v_path` is read, this config's settings override
        those in it, and the result becomes `w2v_args` in the model's `cfg`, which checkpoints keep.

        Args:
            cfg: part of a whole config or on its own; interpolations without a target take their defaults.
            task: only its `target_dictionary` is used.
        Raises:
            ValueError: `w2v_path` cannot be read, or is not a model to fine-tune; invalid config keys or values.
        """
        cfg = merge_with_parent(cls.config_class(), cfg)
        source = pretrained.read_start(cfg)
        with nullcontext() if source is None else bounded.by(source.encoder):
            encoder = cls.build_encoder(cfg, task)
        if source is not None and not cfg.no_pretrained_weights:
            encoder.load_pretrained(source)
            encoder.adopt_head(source, list(task.target_dictionary.symbols))
        return cls(cfg, encoder)

    @classmethod
    def build_encoder(cls, cfg: DictConfig, task: HasTargetDictionary) -> Wav2VecEncoder:
        """Build the encoder that `cfg.w2v_args` describes, with an output layer for the task's dictionary."""
        return Wav2VecEncoder(cfg, None if task.target_dictionary is None else len(task.target_dictionary))

    def pretraining_config(self) -> dict[str, Any]:
        """The whole pre-training config: groups model, task ... as plain values."""
        return pretrained.as_container(self.cfg.w2v_args)

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        """See `Wav2VecEncoder.forward`."""
        return self.w2v_encoder(**kwargs)

    def get_logits(self, net_output: Mapping[str, Any], normalize: bool = False) -> Tensor:
        """Logits, or with `normalize` their log-softmax in fp32; T x B x V.

        In padding frames the blank has probability 1.
        """
        logits = net_output["encoder_out"]
        if self.blank_weight != 0 or self.blank_mode == "set":
            is_blank = torch.arange(logits.size(-1), device=logits.device) == BLANK
            weighted = (
                logits + self.blank_weight if self.blank_mode == "add" else torch.full_like(logits, self.blank_weight)
            )
            logits = torch.where(is_blank, weighted, logits)
        padding_mask = net_output["padding_mask"]
        if padding_mask is not None:
            blank_only = torch.full((logits.size(-1),), float("-inf"), dtype=logits.dtype, device=logits.device)
            blank_only[BLANK] = 0
            logits = torch.where(padding_mask.t().unsqueeze(-1), blank_only, logits)
        return F.log_softmax(logits.float(), dim=-1) if normalize else logits

    def get_normalized_probs(
        self, net_output: Mapping[str, Any], log_probs: bool, sample: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Probabilities of the symbols at every frame, or their logarithms, T x B x V, fp32."""
        logits = self.get_logits(net_output).float()
        return F.log_softmax(logits, dim=-1) if log_probs else F.softmax(logits, dim=-1)

    def max_positions(self) -> int | None:
        """Audio of any length."""
        return None


class Wav2VecEncoder(FairseqEncoder):
    """The pre-trained encoder without its contrastive heads, and an output layer.

    Args:
        cfg: fields of Wav2Vec2AsrConfig in any form, also old command-line arguments; missing ones take their
            defaults. `w2v_args` describes the encoder. If it is not set, `w2v_path` is read: the encoder gets its
            weights (unless `no_pretrained_weights`), and `cfg.w2v_args` its config, overridden by the fine-tuning
            settings.
        output_size: V; None: no output layer, or one of width `cfg.decoder_embed_dim` if the config has that key and
            it differs from the encoder's width.
    Raises:
        ValueError: `w2v_path` is not set, cannot be read, or is not a model to fine-tune.
    """

    def __init__(
        self, cfg: Wav2Vec2AsrConfig | DictConfig | Namespace | dict[str, Any], output_size: int | None = None
    ) -> None:
        super().__init__(None)
        callers_cfg, cfg = cfg, pretrained.settings_of(cfg)
        source = pretrained.read_start(cfg)
        self.apply_mask = cfg.apply_mask
        self._masks_anyway = False  # see masking
        self.freeze_finetune_updates = cfg.freeze_finetune_updates
        # a flag, not the number of updates: a compiled forward pass would be recompiled at every update
        self.frozen = cfg.freeze_finetune_updates > 0
        w2v_args = pretrained.encoder_args(cfg)
        self.w2v_model = kinds.encoder_of(w2v_args).for_encoding(w2v_args)
        tuning.add_parts(self.w2v_model, cfg)
        self.final_dropout = FairseqDropout(cfg.final_dropout)
        width = self.w2v_model.cfg.encoder_embed_dim
        if output_size is None and plain(callers_cfg).get("decoder_embed_dim", width) != width:
            output_size = plain(callers_cfg)["decoder_embed_dim"]  # fairseq: for models with a decoder
        self.proj = None if output_size is None else Linear(width, output_size)
        self.zero_mask = cfg.zero_mask
        if source is not None:
            pretrained.keep_w2v_args(callers_cfg, pretrained.as_container(cfg.w2v_args))
            if not cfg.no_pretrained_weights:
                self.load_pretrained(source)
        tuning.freeze_others(self.w2v_model, str(cfg.tuning))
        if cfg.freeze_regex is not None:
            self._freeze(cfg.freeze_regex)

    def _freeze(self, pattern: str) -> None:
        try:
            frozen = [parameter for name, parameter in self.named_parameters() if re.match(pattern, name)]
        except re.error as error:
            raise ValueError(f"model.freeze_regex={pattern!r} is not a valid regular expression: {error}") from error
        for parameter in frozen:
            parameter.requires_grad = False
        logger.info("model.freeze_regex: %d parameter tensors are frozen", len(frozen))

    # -- initial weights ----------------------------------------------------------------------------------------------

    def load_pretrained(self, source: pretrained.Pretrained) -> None:
        """Load the encoder's weights; into a model on the meta device, which has none, only compare names and shapes.

        Raises:
            ValueError: names or shapes do not match.
        """
        device = self.w2v_model.mask_emb.device
        weights = {
            name: tensor.to(device)
            for name, tensor in tuning.with_added(source.encoder, self.w2v_model).items()
            if not self.w2v_model.is_pretraining_only(name)
        }
        try:
            self.w2v_model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"The weights in model.w2v_path={source.path} do not match the config in that file: {error}"
            ) from error
        logger.info("encoder weights: %s", source.path)
        if self.zero_mask:
            nn.init.zeros_(self.w2v_model.mask_emb)

    def adopt_head(self, source: pretrained.Pretrained, symbols: list[str]) -> None:
        """Load a fine-tuned model's output layer too, if its dictionary is the same; log the outcome."""
        if source.head is None or self.proj is None:
            return
        if source.symbols == symbols and source.head["weight"].shape == self.proj.weight.shape:
            self.proj.load_state_dict(
                {name: tensor.to(self.proj.weight.device) for name, tensor in source.head.items()}
            )
            logger.info("output layer: from %s (the same %d symbols)", source.path, len(symbols))
            return
        found = (
            "an unknown dictionary" if source.symbols is None else f"another dictionary ({len(source.symbols)} symbols)"
        )
        logger.warning(
            "output layer: random weights for %d symbols, because %s was fine-tuned with %s",
            len(symbols),
            source.path,
            found,
        )

    def encoder_config(self) -> AudioModelConfig:
        """The encoder's config, from which data-loading workers draw masks."""
        return self.w2v_model.cfg

    @property
    def masks_frames(self) -> bool:
        """Whether training masks frames."""
        return bool(self.apply_mask) and self.w2v_model.mask_settings.mask_prob > 0

    @contextmanager
    def masking(self, on: bool = True) -> Iterator[None]:
        """Context in which evaluation masks as training does (if `on`); nothing else changes."""
        before, self._masks_anyway = self._masks_anyway, on
        try:
            yield
        finally:
            self._masks_anyway = before

    # -- the forward pass ----------------------------------------------------------------------------------------------

    def set_num_updates(self, num_updates: int) -> None:
        """Freeze the encoder for the first `freeze_finetune_updates` updates."""
        self.frozen = num_updates < self.freeze_finetune_updates

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's argument names for audio
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Encode.

        Args:
            source: raw audio, B x S.
            padding_mask: B x S, any dtype, nonzero where a sample is padding; None: no padding.
            mask_indices: masked frames, bool, B x T; None draws them, in training with `apply_mask`.
            mask_channel_indices: masked channels, bool, B x C; likewise.
            kwargs: corpus_key, the number of each utterance's language, B, for blocks with adapters. Others are
                ignored; fairseq's callers pass source lengths and the like.
        Returns:
            encoder_out: logits, T x B x V (without an output layer features, T x B x C).
            padding_mask: bool, B x T, or None without padding.
            layer_results: one per block of the encoder.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            masks = self.apply_mask and (self.training or self._masks_anyway)
            given = GivenMasks(mask_indices, mask_channel_indices) if masks else None
            encoded = self.encode(source, padding_mask, given, kwargs.get("corpus_key"))
        x = self.final_dropout(encoded.context.transpose(0, 1))  # B x T x C -> T x B x C
        if self.training and self.w2v_model.encoder.static_layerdrop:
            x = with_zero_gradients(x, self.frozen_parameters())
        if self.proj is not None:
            x = self.proj(x)
        return {"encoder_out": x, "padding_mask": encoded.padding_mask, "layer_results": encoded.layer_results}

    def encode(
        self,
        source: Tensor,
        padding_mask: Tensor | None,
        given: GivenMasks | None,
        corpus_key: Sequence[int] | None = None,
    ) -> Encoded:
        """Run the pre-trained encoder; see `AudioModel.encode`."""
        return self.w2v_model.encode(source, padding_mask, given, features_only=True, corpus_key=corpus_key)

    def reorder_encoder_out(self, encoder_out: dict[str, Any], new_order: Tensor) -> dict[str, Any]:
        """Reorder the utterances in the output of `forward`, for beam search; not in `layer_results`."""
        reordered = dict(encoder_out)
        for name, dim in (("encoder_out", 1), ("padding_mask", 0)):
            if encoder_out[name] is not None:
                reordered[name] = encoder_out[name].index_select(dim, new_order)
        return reordered

    def max_positions(self) -> int | None:
        """Audio of any length."""
        return None

    def frozen_parameters(self) -> list[Tensor]:
        """All of the encoder's while it is frozen, else the mask embedding if no frames are masked."""
        model = self.w2v_model
        if self.frozen:
            return list(model.parameters())
        return [] if self.masks_frames else [model.mask_emb]


def Embedding(num_embeddings: int, embedding_dim: int, padding_idx: int) -> nn.Embedding:
    """Embedding with normal weights of standard deviation embedding_dim**-0.5, and 0 for padding."""
    layer = nn.Embedding(num_embeddings, embedding_dim, padding_idx=padding_idx)
    nn.init.normal_(layer.weight, mean=0, std=embedding_dim**-0.5)
    nn.init.zeros_(layer.weight[padding_idx])
    return layer


def base_architecture(args: Namespace) -> None:
    """Fill in settings missing from old wav2vec_ctc arguments, in place, with fairseq 0.10's defaults."""
    defaults = {
        "no_pretrained_weights": False,
        "dropout_input": 0,
        "final_dropout": 0,
        "apply_mask": False,
        "dropout": 0,
        "attention_dropout": 0,
        "activation_dropout": 0,
        "mask_length": 10,
        "mask_prob": 0.5,
        "mask_selection": "static",
        "mask_other": 0,
        "no_mask_overlap": False,
        "mask_channel_length": 10,
        "mask_channel_prob": 0.5,
        "mask_channel_selection": "static",
        "mask_channel_other": 0,
        "no_mask_channel_overlap": False,
        "freeze_finetune_updates": 0,
        "feature_grad_mult": 0,
        "layerdrop": 0.0,
    }
    for name, value in defaults.items():
        vars(args).setdefault(name, value)


def Linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Linear layer with Xavier-uniform weights and a zero bias."""
    layer = nn.Linear(in_features, out_features, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
