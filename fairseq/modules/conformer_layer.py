"""The conformer block: half feed-forward, attention, convolution, half feed-forward (Gulati et al. 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fairseq.modules.dropout import FairseqDropout
from fairseq.modules.espnet_multihead_attention import (
    ESPNETMultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    RotaryPositionMultiHeadedAttention,
)
from fairseq.modules.gelu import GLU
from fairseq.modules.layer_norm import LayerNorm
from fairseq.modules.multihead_attention import MultiheadAttention
from fairseq.modules.run_mode import RunMode

_ACTIVATIONS: dict[str, type[nn.Module]] = {"swish": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def activation_module(name: str) -> nn.Module:
    """Build the activation of a conformer layer by name."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"The conformer's activation is {name!r}. It must be one of: {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]()


class ConvolutionModule(nn.Module):
    """Gated pointwise convolution, depthwise convolution over time, batch norm; B x T x C.

    The batch norm's statistics include padding, as in fairseq.

    Raises:
        ValueError: even kernel size, which would change the length.
    """

    def __init__(
        self,
        embed_dim: int,
        channels: int,
        depthwise_kernel_size: int,
        dropout: float,
        activation_fn: str = "swish",
        bias: bool = False,
        export: bool = False,
    ) -> None:
        super().__init__()
        if depthwise_kernel_size % 2 == 0:
            raise ValueError(f"model.depthwise_conv_kernel_size is {depthwise_kernel_size}. It must be odd.")
        self.layer_norm = LayerNorm(embed_dim, export=export)
        self.pointwise_conv1 = nn.Conv1d(embed_dim, 2 * channels, kernel_size=1, bias=bias)
        self.glu = GLU(dim=1)
        self.depthwise_conv = nn.Conv1d(
            channels, channels, depthwise_kernel_size, padding=depthwise_kernel_size // 2, groups=channels, bias=bias
        )
        self.batch_norm = nn.BatchNorm1d(channels)
        self.activation = activation_module(activation_fn)
        self.pointwise_conv2 = nn.Conv1d(channels, embed_dim, kernel_size=1, bias=bias)
        self.dropout = FairseqDropout(dropout)
        self.length_aware = False  # see RunMode

    def take_run_mode(self, mode: RunMode) -> None:
        if mode.length_aware is not None:
            self.length_aware = mode.length_aware

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Run on B x T x C; a length-aware module zeroes padding (bool, B x T) before the depthwise convolution."""
        x = self.layer_norm(x).transpose(1, 2)  # B x C x T
        x = self.glu(self.pointwise_conv1(x))
        if self.length_aware and padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(1), 0)
        x = self.activation(self.batch_norm(self.depthwise_conv(x)))
        return self.dropout(self.pointwise_conv2(x)).transpose(1, 2)


class FeedForwardModule(nn.Module):
    """Layer norm and two linear layers with dropout after each."""

    def __init__(
        self,
        input_feat: int,
        hidden_units: int,
        dropout1: float,
        dropout2: float,
        activation_fn: str = "swish",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(input_feat)
        self.w_1 = nn.Linear(input_feat, hidden_units, bias=bias)
        self.w_2 = nn.Linear(hidden_units, input_feat, bias=bias)
        self.dropout1 = FairseqDropout(dropout1)
        self.dropout2 = FairseqDropout(dropout2)
        self.activation = activation_module(activation_fn)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout1(self.activation(self.w_1(self.layer_norm(x))))
        return self.dropout2(self.w_2(x))


class ConformerEncoderLayer(nn.Module):
    """One conformer block; T x B x C.

    Args:
        use_fp16: ignored (fairseq's argument); rotary tables have the input's dtype.
        attn_type: "espnet", or "" for fairseq's attention, which does not use positions.
        pos_enc_type: "rel_pos", "rope" or "abs".
    Raises:
        ValueError: unknown `attn_type` or `pos_enc_type`, or relative positions with fairseq's attention.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_embed_dim: int,
        attention_heads: int,
        dropout: float,
        use_fp16: bool = False,
        depthwise_conv_kernel_size: int = 31,
        activation_fn: str = "swish",
        attn_type: str | None = None,
        pos_enc_type: str = "abs",
    ) -> None:
        super().__init__()
        self.pos_enc_type = pos_enc_type
        # fairseq: always swish, ignoring activation_fn
        self.ffn1 = FeedForwardModule(embed_dim, ffn_embed_dim, dropout, dropout)
        self.self_attn_layer_norm = LayerNorm(embed_dim)
        self.self_attn_dropout = FairseqDropout(dropout)
        self.self_attn = build_attention(embed_dim, attention_heads, dropout, attn_type or "", pos_enc_type)
        self.conv_module = ConvolutionModule(
            embed_dim=embed_dim,
            channels=embed_dim,
            depthwise_kernel_size=depthwise_conv_kernel_size,
            dropout=dropout,
            activation_fn=activation_fn,
        )
        self.ffn2 = FeedForwardModule(embed_dim, ffn_embed_dim, dropout, dropout, activation_fn=activation_fn)
        self.final_layer_norm = LayerNorm(embed_dim)

    def forward(
        self, x: Tensor, encoder_padding_mask: Tensor | None, position_emb: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
        """One block.

        Args:
            x: T x B x C. encoder_padding_mask: B x T, true where a frame is padding.
            position_emb: (2T-1) x 1 x C with relative positions, else None.
        Returns:
            T x B x C, and (attention weights or None, the second feed-forward's output T x B x C).
        """
        x = 0.5 * self.ffn1(x) + x

        normalized = self.self_attn_layer_norm(x)
        extra = {"pos_emb": position_emb} if self.pos_enc_type == "rel_pos" else {}
        attended, weights = self.self_attn(
            query=normalized,
            key=normalized,
            value=normalized,
            key_padding_mask=encoder_padding_mask,
            need_weights=False,
            **extra,
        )
        x = x + self.self_attn_dropout(attended)

        x = x + self.conv_module(x.transpose(0, 1), encoder_padding_mask).transpose(0, 1)

        layer_result = self.ffn2(x)
        return self.final_layer_norm(0.5 * layer_result + x), (weights, layer_result)


class ConformerWav2Vec2EncoderLayer(ConformerEncoderLayer):
    """The conformer block with the arguments of a wav2vec 2.0 encoder layer."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's signatures
        self,
        x: Tensor,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        att_args: Any = None,
        position_emb: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
        return super().forward(x, self_attn_padding_mask, position_emb)


def build_attention(embed_dim: int, num_heads: int, dropout: float, attn_type: str, pos_enc_type: str) -> nn.Module:
    """Build the attention for `attn_type` and `pos_enc_type`."""
    espnet: dict[str, type[ESPNETMultiHeadedAttention]] = {
        "rel_pos": RelPositionMultiHeadedAttention,
        "rope": RotaryPositionMultiHeadedAttention,
        "abs": ESPNETMultiHeadedAttention,
    }
    if pos_enc_type not in espnet:
        raise ValueError(f"model.pos_enc_type is {pos_enc_type!r}. It must be one of: {', '.join(espnet)}.")
    if attn_type == "espnet":
        return espnet[pos_enc_type](embed_dim, num_heads, dropout=dropout)
    if attn_type != "":
        raise ValueError(f"model.attn_type is {attn_type!r}. It must be 'espnet', or '' for fairseq's attention.")
    if pos_enc_type == "rel_pos":
        raise ValueError(
            "model.pos_enc_type=rel_pos requires model.attn_type=espnet. Set model.attn_type=espnet, or "
            "model.pos_enc_type=abs."
        )
    return MultiheadAttention(embed_dim, num_heads, dropout=dropout)
