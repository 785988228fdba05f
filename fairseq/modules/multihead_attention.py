"""Multi-head attention."""

from __future__ import annotations

from torch import Tensor, nn

from fairseq.modules.attention import additive_mask, attend
from fairseq.modules.dropout import FairseqDropout


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with H heads (Vaswani et al. 2017); fairseq's parameter names and order.

    Args:
        embed_dim: channels C of queries and output.
        num_heads: H.
        kdim, vdim: channels of keys and values; None: C.
        dropout: on the attention weights.
        self_attention, encoder_decoder_attention: the kind of attention; self-attention requires kdim = vdim = C.
    Raises:
        ValueError: `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads != 0:
            raise ValueError(
                f"model.encoder_embed_dim={embed_dim} must be a multiple of model.encoder_attention_heads={num_heads}."
            )
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self.dropout_module = FairseqDropout(dropout)

        self.k_proj = nn.Linear(self.kdim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(self.vdim, embed_dim, bias=bias)
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, scaled by 1/sqrt(2) if queries, keys and values have one width; zero output bias."""
        gain = 2**-0.5 if self.kdim == self.vdim == self.embed_dim else 1.0
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if self.out_proj.bias is not None:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: T x B x C. key, value: T' x B x (kdim, vdim); default: the query, the key.
            key_padding_mask: B x T', true for keys to mask out.
            attn_mask: T x T', added to the scores (or bool: true for keys to mask out).
            need_weights, need_head_weights: also return the weights, averaged over heads or per head.
        Returns:
            T x B x C, and the weights B x T x T' (H x B x T x T' per head) or None.
        """
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        mask = additive_mask(key_padding_mask, attn_mask, q)
        needs_weights = need_weights or need_head_weights
        out, weights = attend(q, k, v, mask, self.dropout_module.p if self.training else 0.0, needs_weights)
        T, B = query.shape[:2]
        out = self.out_proj(out.permute(2, 0, 1, 3).reshape(T, B, self.embed_dim))  # B x H x T x D -> T x B x C
        if weights is None:
            return out, None
        return out, weights.transpose(0, 1) if need_head_weights else weights.mean(dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        """T x B x C -> B x H x T x D, a view."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)
