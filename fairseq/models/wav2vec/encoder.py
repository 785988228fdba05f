"""The transformer encoder over latent frames, with convolutional positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairseq import utils
from fairseq.models.wav2vec.adapters import AdapterFast, adapter_of, layers_with_adapters
from fairseq.models.wav2vec.audio_config import AudioModelConfig
from fairseq.models.wav2vec.positional_convolution import make_conv_pos, stacked_pos_conv
from fairseq.models.wav2vec.utils import pad_to_multiple
from fairseq.modules import (
    ConformerWav2Vec2EncoderLayer,
    FairseqDropout,
    LayerNorm,
    MultiheadAttention,
    checkpoint_wrapper,
    init_bert_params,
)
from fairseq.modules.dropout import dropout
from fairseq.modules.run_mode import RunMode

LayerResult = tuple[Tensor, Any, Any]  # output, attention weights (or the layer's pair), feed-forward output; T x B x C


class TransformerEncoder(nn.Module):
    """Positional convolution and a stack of blocks (Baevski et al. 2020, section 2, "Contextualized representations").

    With `static_layerdrop` (RunMode.static_graph), values and gradients are the same as if dropped blocks were skipped.
    """

    def __init__(self, args: AudioModelConfig) -> None:
        super().__init__()
        self.args = args
        self.dropout = args.dropout
        self.embedding_dim = args.encoder_embed_dim
        self.required_seq_len_multiple = args.required_seq_len_multiple
        self.layer_norm_first = args.layer_norm_first
        self.layerdrop = args.encoder_layerdrop
        self.static_layerdrop = False
        self.length_aware = False

        has_adapters = str(args.layer_type) == "trf_adp"
        self.adapted = (
            layers_with_adapters(args.adp_trf_idx, args.encoder_layers)
            if has_adapters
            else [False] * args.encoder_layers
        )
        self.pos_conv = self.build_pos_conv(args)
        self.layers = nn.ModuleList([self._wrapped_layer(args, number) for number in range(args.encoder_layers)])
        self.layer_norm = LayerNorm(self.embedding_dim)
        self.apply(init_bert_params)

    def build_pos_conv(self, args: AudioModelConfig) -> nn.Sequential:
        """Build the positional convolution: one wide one, or a stack of `pos_conv_depth` narrow ones."""
        shape = (args.encoder_embed_dim, args.conv_pos, args.conv_pos_groups)
        return stacked_pos_conv(*shape, args.pos_conv_depth) if args.pos_conv_depth > 1 else make_conv_pos(*shape)

    def _wrapped_layer(self, args: AudioModelConfig, number: int) -> nn.Module:
        layer = self.build_encoder_layer(args, layer_idx=number)
        return checkpoint_wrapper(layer) if args.checkpoint_activations else layer

    def take_run_mode(self, mode: RunMode) -> None:
        if mode.static_graph is not None:
            self.static_layerdrop = mode.static_graph
        if mode.length_aware is not None:
            self.length_aware = mode.length_aware
        if mode.pads_to_multiple is not None:
            self.required_seq_len_multiple = self.args.required_seq_len_multiple if mode.pads_to_multiple else 1

    def sharded_parts(self) -> list[nn.Module]:
        """The blocks; see `fairseq.distributed.fully_sharded`."""
        return list(self.layers)

    def build_encoder_layer(self, args: AudioModelConfig, layer_idx: int = 0) -> nn.Module:
        """Build block `layer_idx`, of the config's `layer_type`."""
        if args.layer_type == "conformer":
            return conformer_layer(args, pos_enc_type="abs")
        if args.layer_type not in ("transformer", "trf_adp"):
            raise ValueError(
                f"model.layer_type is {args.layer_type!r}. It must be one of: transformer, conformer, trf_adp."
            )
        settings: dict[str, Any] = {
            "embedding_dim": self.embedding_dim,
            "ffn_embedding_dim": args.encoder_ffn_embed_dim,
            "num_attention_heads": args.encoder_attention_heads,
            "dropout": args.dropout,
            "attention_dropout": args.attention_dropout,
            "activation_dropout": args.activation_dropout,
            "activation_fn": args.activation_fn,
            "layer_norm_first": args.layer_norm_first,
        }
        if not self.adapted[layer_idx]:
            return TransformerSentenceEncoderLayer(**settings)
        return TransformerSentenceEncoderWithAdapterLayer(
            **settings, adapter_num=args.adp_num, adapter_dim=args.adp_dim, adapter_act_fn=args.adp_act_fn
        )

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        layer: int | None = None,
        corpus_key: Sequence[int] | None = None,
    ) -> tuple[Tensor, list[LayerResult]]:
        """Encode.

        Args:
            x: B x T x C.
            padding_mask: B x T, true where a frame is padding; None: no padding.
            layer: stop after this block (0 is the first) and return its output, without the final norm of a pre-norm
                model. A negative number, or one past the last block, runs all blocks, also without that norm.
            corpus_key: the number of each utterance's language, B, for blocks with adapters; others ignore it.
        Returns:
            B x T x C, and the results of the blocks that ran.
        """
        x, layer_results = self.extract_features(x, padding_mask, layer, corpus_key=corpus_key)
        if self.layer_norm_first and layer is None:
            x = self.layer_norm(x)
        return x, layer_results

    def extract_features(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        tgt_layer: int | None = None,
        min_layer: int = 0,
        corpus_key: Sequence[int] | None = None,
    ) -> tuple[Tensor, list[LayerResult]]:
        """`forward` without the final norm; results of blocks before `min_layer` are not kept."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0)
        x = x + self._positions(x, padding_mask)
        if not self.layer_norm_first:
            x = self.layer_norm(x)

        num_frames = x.size(1)
        x, added = pad_to_multiple(x, self.required_seq_len_multiple, dim=-2)
        is_filled = isinstance(added, Tensor) or added > 0  # a tensor in a trace: other lengths need padding
        if is_filled and padding_mask is None:
            padding_mask = (torch.arange(x.size(1), device=x.device) >= num_frames).expand(x.size(0), -1)
        else:
            padding_mask, _ = pad_to_multiple(padding_mask, self.required_seq_len_multiple, dim=-1, value=True)

        x = dropout(x, self.dropout, self.training)
        x = x.transpose(0, 1)  # B x T x C -> T x B x C
        x, layer_results = self._run_layers(
            x, tgt_layer, min_layer, corpus_key, self_attn_padding_mask=padding_mask, need_weights=False
        )
        x = x.transpose(0, 1)
        if is_filled:  # cut to num_frames, not by `added`, which can be 0 in a trace
            x = x[:, :num_frames]
            layer_results = [
                (out[:num_frames], None if weights is None else weights[:num_frames], ffn[:num_frames])
                for out, weights, ffn in layer_results
            ]
        return x, layer_results

    def _positions(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Output of the positional convolution for B x T x C.

        In a length-aware encoder, a stack of several convolutions gets zeros for padding.
        """
        x = x.transpose(1, 2)
        if not self.length_aware or padding_mask is None or self.args.pos_conv_depth == 1:
            return self.pos_conv(x).transpose(1, 2)
        for block in self.pos_conv:
            x = block(x.masked_fill(padding_mask.unsqueeze(1), 0))
        return x.transpose(1, 2)

    def _run_layers(
        self,
        x: Tensor,
        tgt_layer: int | None,
        min_layer: int,
        corpus_key: Sequence[int] | None,
        **layer_arguments: Any,
    ) -> tuple[Tensor, list[LayerResult]]:
        """Run the blocks up to `tgt_layer` (all for None or a negative number), with layerdrop; T x B x C."""
        layers = self.layers if tgt_layer is None or tgt_layer < 0 else self.layers[: tgt_layer + 1]
        drop = LayerDrop.draw(len(self.layers), self.layerdrop, self.training, self.static_layerdrop, x)
        layer_results: list[LayerResult] = []
        for number, layer in enumerate(layers):
            if drop.skips(number):
                continue
            draws = drop.seed(number)
            before = x
            key = {"corpus_key": corpus_key} if self.adapted[number] else {}
            x, (weights, ffn) = layer(x, **layer_arguments, **key)
            x = drop.keep_or_undo(number, x, before)
            if draws is not None:
                utils.set_rng_state(draws)
            if number >= min_layer:
                layer_results.append((x, weights, ffn))
        return x, layer_results

    def max_positions(self) -> int:
        """Maximum frames of an utterance."""
        return self.args.max_positions

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Return the state as it is: names have not changed since fairseq's first release."""
        return state_dict


class LayerDrop(NamedTuple):
    """The blocks dropped in one forward pass (Fan et al. 2019)."""

    dropped: list[bool]  # per block, on the host; all False if drawn on the device
    # 1 or 0 per block, on the device, if dropped blocks are computed and undone; None if they are skipped
    keep: Tensor | None
    seeds: list[int] | None  # per block, for its dropout; None: use the generator's current state

    @classmethod
    def draw(cls, num_layers: int, probability: float, training: bool, static: bool, like: Tensor) -> LayerDrop:
        """Draw flags from torch's default CPU generator: they are needed on the host without waiting for the device.

        A skipped block draws no dropout, a computed one does. Each block has its own seed, so that later random numbers
        do not depend on that: one process, which skips blocks, gets the same results as several, which undo them.
        """
        if not training or probability <= 0:
            return cls([False] * num_layers, None, None)
        if static and utils.is_hpu_tensor(like):
            # hpu: drawn on the device, so that a compiled graph draws new flags each time; a seed set inside a graph
            # would apply to all of it
            return cls(
                [False] * num_layers, (torch.rand(num_layers, device=like.device) > probability).to(like.dtype), None
            )
        flags = torch.rand(num_layers) <= probability
        keep = (~flags).to(device=like.device, dtype=like.dtype, non_blocking=True) if static else None
        seeds = torch.randint(2**62, (num_layers,)).numpy().tolist()
        return cls(flags.numpy().tolist(), keep, seeds)

    def seed(self, number: int) -> dict[str, Tensor] | None:
        """Set the random state for a block; call before computing it.

        Returns:
            For a block that will be undone, the state to restore after it, so that what the model draws after its last
            block does not depend on whether that is skipped or undone; else None.
        """
        if self.seeds is None:
            return None
        before = utils.get_rng_state() if self.dropped[number] else None
        utils.set_torch_seed(self.seeds[number])
        return before

    def skips(self, number: int) -> bool:
        return self.keep is None and self.dropped[number]

    def keep_or_undo(self, number: int, after: Tensor, before: Tensor) -> Tensor:
        """The block's output, or its input if it is dropped; exact, since the other is multiplied by 0."""
        if self.keep is None:
            return after
        return after * self.keep[number] + before * (1 - self.keep[number])


class TransformerSentenceEncoderLayer(nn.Module):
    """Self-attention and feed-forward layer with residuals and pre- or post-norm; T x B x C."""

    def __init__(
        self,
        embedding_dim: int = 768,
        ffn_embedding_dim: int = 3072,
        num_attention_heads: int = 8,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        activation_fn: str = "relu",
        layer_norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.dropout = dropout
        self.activation_dropout = activation_dropout
        self.activation_fn = utils.get_activation_fn(activation_fn)
        self.layer_norm_first = layer_norm_first

        self.self_attn = MultiheadAttention(
            embedding_dim, num_attention_heads, dropout=attention_dropout, self_attention=True
        )
        self.dropout1 = FairseqDropout(dropout)
        self.dropout2 = FairseqDropout(activation_dropout)
        self.dropout3 = FairseqDropout(dropout)
        self.self_attn_layer_norm = LayerNorm(embedding_dim)
        self.fc1 = nn.Linear(embedding_dim, ffn_embedding_dim)
        self.fc2 = nn.Linear(ffn_embedding_dim, embedding_dim)
        self.final_layer_norm = LayerNorm(embedding_dim)

    def forward(
        self,
        x: Tensor,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        att_args: Any = None,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
        """One block.

        Args:
            x: T x B x C.
            self_attn_mask: T x T, added to the attention scores.
            self_attn_padding_mask: B x T, true where a frame is padding.
            need_weights: also return the attention weights, averaged over heads.
        Returns:
            T x B x C, and (attention weights or None, the feed-forward's output before dropout and residual).
        """
        normalized = self.self_attn_layer_norm(x) if self.layer_norm_first else x
        attended, weights = self.self_attn(
            normalized, key_padding_mask=self_attn_padding_mask, attn_mask=self_attn_mask, need_weights=need_weights
        )
        x = x + self.dropout1(attended)
        if not self.layer_norm_first:
            x = self.self_attn_layer_norm(x)

        normalized = self.final_layer_norm(x) if self.layer_norm_first else x
        layer_result = self.fc2(self.dropout2(self.activation_fn(self.fc1(normalized))))
        x = x + self.dropout3(layer_result)
        if not self.layer_norm_first:
            x = self.final_layer_norm(x)
        return x, (weights, layer_result)


class TransformerSentenceEncoderWithAdapterLayer(TransformerSentenceEncoderLayer):
    """A block followed by the adapter of the batch's language, with a residual (layer_type trf_adp)."""

    def __init__(
        self,
        embedding_dim: int = 768,
        ffn_embedding_dim: int = 3072,
        num_attention_heads: int = 8,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        activation_fn: str = "relu",
        layer_norm_first: bool = False,
        adapter_num: int = 201,
        adapter_dim: int = 64,
        adapter_act_fn: str = "relu",
    ) -> None:
        super().__init__(
            embedding_dim,
            ffn_embedding_dim,
            num_attention_heads,
            dropout,
            attention_dropout,
            activation_dropout,
            activation_fn,
            layer_norm_first,
        )
        self.adapter_num = adapter_num
        self.adapter_dim = adapter_dim
        self.adapter_layer = AdapterFast(adapter_num, embedding_dim, adapter_dim, adapter_act_fn)

    def forward(
        self,
        x: Tensor,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        att_args: Any = None,
        corpus_key: Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
        """One block; `corpus_key` is the number of each utterance's language, B, all the same.

        Raises:
            ValueError: see `adapter_of`.
        """
        x, result = super().forward(x, self_attn_mask, self_attn_padding_mask, need_weights, att_args)
        return x + self.adapter_layer(x, adapter_of(corpus_key, self.adapter_num)), result


def conformer_layer(args: AudioModelConfig, pos_enc_type: str) -> ConformerWav2Vec2EncoderLayer:
    """Build a conformer block; attention dropout is `dropout`, as in fairseq, and the activation is swish."""
    return ConformerWav2Vec2EncoderLayer(
        embed_dim=args.encoder_embed_dim,
        ffn_embed_dim=args.encoder_ffn_embed_dim,
        attention_heads=args.encoder_attention_heads,
        dropout=args.dropout,
        use_fp16=args.fp16,
        depthwise_conv_kernel_size=args.depthwise_conv_kernel_size,
        activation_fn="swish",
        attn_type=args.attn_type,
        pos_enc_type=pos_enc_type,
    )
