"""wav2vec 2.0 with an output layer over the symbols of a dictionary, trained by CTC."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq.dataclass.utils import merge_with_parent, plain
from fairseq.models import bounded, register_model
from fairseq.models.fairseq_encoder import FairseqEncoder
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.asr_config import BLANK_MODE_CHOICES, Wav2Vec2AsrConfig, Wav2Vec2CtcConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
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

BLANK = 0  # fairseq: <s>, the dictionary's first symbol, is CTC's blank


@register_model("wav2vec_ctc", dataclass=Wav2Vec2CtcConfig)
class Wav2VecCtc(BaseFairseqModel):
    """Symbols at every frame; CTC says which frames say what."""

    def __init__(self, cfg: Wav2Vec2CtcConfig | DictConfig, w2v_encoder: Wav2VecEncoder) -> None:
        super().__init__()
        self.cfg = cfg
        self.w2v_encoder = w2v_encoder
        self.blank_weight = cfg.blank_weight
        self.blank_mode = str(cfg.blank_mode)

    @classmethod
    def build_model(cls, cfg: Wav2Vec2CtcConfig | Mapping[str, Any], task: Any) -> Wav2VecCtc:
        """Build the model.

        With `w2v_args` the encoder is what they describe, `w2v_path` is not opened, and masks, dropouts, layerdrop and
        feature_grad_mult of this config are not applied. Without, `w2v_path` is read, this config's settings are put
        over the ones in it, and the result becomes `w2v_args` of the model's `cfg`, which a checkpoint keeps.

        Args:
            cfg: part of a whole config or free-standing; interpolations that nothing answers take their defaults.
            task: gives `target_dictionary`, nothing else is asked of it.
        Raises:
            ValueError: `w2v_path` cannot be read, or is no model to fine-tune; keys or values that the config does not
                take.
        """
        cfg = merge_with_parent(Wav2Vec2CtcConfig(), cfg)
        source = pretrained.read_start(cfg)
        with nullcontext() if source is None else bounded.by(source.encoder):
            encoder = Wav2VecEncoder(cfg, len(task.target_dictionary))
        if source is not None and not cfg.no_pretrained_weights:
            encoder.load_pretrained(source)
            encoder.adopt_head(source, list(task.target_dictionary.symbols))
        return cls(cfg, encoder)

    def forward(self, **kwargs: Any) -> dict[str, Any]:
        """See `Wav2VecEncoder.forward`."""
        return self.w2v_encoder(**kwargs)

    def get_logits(self, net_output: Mapping[str, Any], normalize: bool = False) -> Tensor:
        """Logits, or with `normalize` their log-softmax in fp32; T x B x V. In frames that are padding the blank
        has probability 1.
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
        cfg: fields of Wav2Vec2AsrConfig in any form, also as old command-line arguments; those it lacks have their
            defaults. Its `w2v_args` describe the encoder. Where they are not set, `w2v_path` is read, the encoder gets
            its weights (unless `no_pretrained_weights`), and `cfg` gets its config, with the settings of fine-tuning
            put over it, as `w2v_args`.
        output_size: V; None: no output layer, or one of `cfg.decoder_embed_dim` where a caller's config has that and it
            is not the width of the encoder.
    Raises:
        ValueError: `w2v_path` is not set or cannot be read, or is no model to fine-tune.
    """

    def __init__(
        self, cfg: Wav2Vec2AsrConfig | DictConfig | Namespace | dict[str, Any], output_size: int | None = None
    ) -> None:
        super().__init__(None)
        callers_cfg, cfg = cfg, pretrained.settings_of(cfg)
        source = pretrained.read_start(cfg)
        self.apply_mask = cfg.apply_mask
        self.freeze_finetune_updates = cfg.freeze_finetune_updates
        self.frozen = (
            cfg.freeze_finetune_updates > 0
        )  # a flag, not the count: a compiled forward pass must not depend on what changes always
        self.w2v_model = Wav2Vec2Model(pretrained.model_config(pretrained.as_container(cfg.w2v_args)))
        self.w2v_model.remove_pretraining_modules()
        self.final_dropout = FairseqDropout(cfg.final_dropout)
        width = self.w2v_model.cfg.encoder_embed_dim
        if output_size is None and plain(callers_cfg).get("decoder_embed_dim", width) != width:
            output_size = plain(callers_cfg)["decoder_embed_dim"]  # fairseq: of a model with a decoder
        self.proj = None if output_size is None else Linear(width, output_size)
        self.zero_mask = cfg.zero_mask
        if source is not None:
            pretrained.keep_w2v_args(callers_cfg, pretrained.as_container(cfg.w2v_args))
            if not cfg.no_pretrained_weights:
                self.load_pretrained(source)
        if cfg.freeze_regex is not None:
            self._freeze(cfg.freeze_regex)

    def _freeze(self, pattern: str) -> None:
        try:
            frozen = [parameter for name, parameter in self.named_parameters() if re.match(pattern, name)]
        except re.error as error:
            raise ValueError(f"model.freeze_regex is {pattern!r}, which is no regular expression: {error}") from error
        for parameter in frozen:
            parameter.requires_grad = False
        logger.info("model.freeze_regex: %d parameter tensors are not trained", len(frozen))

    # -- weights to start from -----------------------------------------------------------------------------------------

    def load_pretrained(self, source: pretrained.Pretrained) -> None:
        """Take the encoder's weights.

        Raises:
            ValueError: names or shapes that do not fit.
        """
        weights = {
            name: tensor for name, tensor in source.encoder.items() if not name.startswith(pretrained.PRETRAINING_ONLY)
        }
        try:
            self.w2v_model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of model.w2v_path {source.path} do not fit the config inside it: {error}"
            ) from error
        logger.info("the encoder has the weights of %s", source.path)
        if self.zero_mask:
            nn.init.zeros_(self.w2v_model.mask_emb)

    def adopt_head(self, source: pretrained.Pretrained, symbols: list[str]) -> None:
        """Take a fine-tuned model's output layer too, if its rows mean this dictionary's symbols; says in the log
        what happens.
        """
        if source.head is None or self.proj is None:
            return
        if source.symbols == symbols and source.head["weight"].shape == self.proj.weight.shape:
            self.proj.load_state_dict(source.head)
            logger.info("%s is fine-tuned to the same %d symbols: its output layer is kept", source.path, len(symbols))
            return
        told = (
            "an unknown dictionary" if source.symbols is None else f"another dictionary ({len(source.symbols)} symbols)"
        )
        logger.warning(
            "%s is fine-tuned to %s: the output layer over these %d symbols is new", source.path, told, len(symbols)
        )

    # -- the forward pass ----------------------------------------------------------------------------------------------

    def set_num_updates(self, num_updates: int) -> None:
        """Tell how many updates are done: the encoder learns after `freeze_finetune_updates`."""
        self.frozen = num_updates < self.freeze_finetune_updates

    def forward(
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
            padding_mask: B x S, of any dtype, true (not 0) where a sample is padding; None: there is none.
            mask_indices: masked frames, bool, B x T; in training with `apply_mask`, None draws them here.
            mask_channel_indices: masked channels, bool, B x C; likewise.
            kwargs: accepted from fairseq's callers (lengths of the source and the like), which give more than is
                needed.
        Returns:
            encoder_out: logits, T x B x V (without an output layer features, T x B x C); padding_mask: bool, B x T, or
                None if
            nothing is padding; layer_results: of the encoder's blocks.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            result = self.w2v_model(
                source,
                padding_mask,
                mask=self.apply_mask and self.training,
                features_only=True,
                mask_indices=mask_indices,
                mask_channel_indices=mask_channel_indices,
            )
        x = self.final_dropout(result["x"].transpose(0, 1))  # B x T x C -> T x B x C
        if self.training and self.w2v_model.encoder.static_layerdrop:
            x = with_zero_gradients(x, self.frozen_parameters())
        if self.proj is not None:
            x = self.proj(x)
        return {"encoder_out": x, "padding_mask": result["padding_mask"], "layer_results": result["layer_results"]}

    def reorder_encoder_out(self, encoder_out: dict[str, Any], new_order: Tensor) -> dict[str, Any]:
        """The output of `forward` with its utterances in another order, for a decoder's beam search;
        `layer_results` stay as they are.
        """
        reordered = dict(encoder_out)
        for name, dim in (("encoder_out", 1), ("padding_mask", 0)):
            if encoder_out[name] is not None:
                reordered[name] = encoder_out[name].index_select(dim, new_order)
        return reordered

    def max_positions(self) -> int | None:
        """Audio of any length."""
        return None

    def frozen_parameters(self) -> list[Tensor]:
        """The whole encoder's while it is frozen, and the mask embedding where no frame is masked."""
        model = self.w2v_model
        if self.frozen:
            return list(model.parameters())
        return [] if self.apply_mask and model.mask_prob > 0 else [model.mask_emb]


def Embedding(num_embeddings: int, embedding_dim: int, padding_idx: int) -> nn.Embedding:
    """An embedding with normal weights of standard deviation embedding_dim**-0.5, and zeros for padding."""
    layer = nn.Embedding(num_embeddings, embedding_dim, padding_idx=padding_idx)
    nn.init.normal_(layer.weight, mean=0, std=embedding_dim**-0.5)
    nn.init.zeros_(layer.weight[padding_idx])
    return layer


def base_architecture(args: Namespace) -> None:
    """fairseq 0.10: put in the settings that old command-line arguments of wav2vec_ctc lack, in place. Its
    defaults, not today's.
    """
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
    """A linear layer with Xavier's uniform weights and no bias to begin with."""
    layer = nn.Linear(in_features, out_features, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
