"""The conformer's attention with ESPnet's parameters: absolute, relative and rotary positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq.modules.attention import additive_mask, attend
from fairseq.modules.dropout import FairseqDropout
from fairseq.modules.rotary_positional_embedding import RotaryPositionalEmbedding, apply_rotary_pos_emb


class ESPNETMultiHeadedAttention(nn.Module):
    """Attention without position information.

    Args:
        n_feat: channels C, a multiple of `n_head`.
        n_head: H.
        dropout: on the attention weights.
    Raises:
        ValueError: `n_feat` is not a multiple of `n_head`.
    """

    def __init__(self, n_feat: int, n_head: int, dropout: float) -> None:
        super().__init__()
        if n_feat % n_head != 0:
            raise ValueError(
                f"model.encoder_embed_dim={n_feat} must be a multiple of model.encoder_attention_heads={n_head}."
            )
        self.d_k = n_feat // n_head
        self.h = n_head
        self.linear_q = nn.Linear(n_feat, n_feat)
        self.linear_k = nn.Linear(n_feat, n_feat)
        self.linear_v = nn.Linear(n_feat, n_feat)
        self.linear_out = nn.Linear(n_feat, n_feat)
        self.dropout = FairseqDropout(p=dropout)

    @property
    def num_heads(self) -> int:
        return self.h

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, None]:
        """Attend: query, key, value T x B x C, key_padding_mask B x T (true: masked); returns T x B x C and None."""
        q, k, v = self.forward_qkv(query, key, value)
        return self.attend(q, k, v, additive_mask(key_padding_mask, None, q)), None

    def forward_qkv(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected queries, keys and values, T x B x C -> B x H x T x D."""
        return self._heads(self.linear_q(query)), self._heads(self.linear_k(key)), self._heads(self.linear_v(value))

    def _heads(self, x: Tensor) -> Tensor:
        # not unflatten: the ONNX exporter would fix the number of frames
        return x.reshape(x.size(0), x.size(1), self.h, self.d_k).permute(1, 2, 0, 3)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention and output projection; `mask` is added to the scaled scores. Returns T x B x C."""
        out, _ = attend(q, k, v, mask, self.dropout.p if self.training else 0.0)
        return self.linear_out(out.permute(2, 0, 1, 3).flatten(2))


class RelPositionMultiHeadedAttention(ESPNETMultiHeadedAttention):
    """Attention whose scores depend on the distance of query and key (Dai et al. 2019, section 3.3)."""

    def __init__(self, n_feat: int, n_head: int, dropout: float) -> None:
        super().__init__(n_feat, n_head, dropout)
        self.linear_pos = nn.Linear(n_feat, n_feat, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(self.h, self.d_k))
        self.pos_bias_v = nn.Parameter(torch.empty(self.h, self.d_k))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's signatures
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pos_emb: Tensor,
        key_padding_mask: Tensor | None = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            query, key, value: T x B x C.
            pos_emb: (2T-1) x 1 x C, from `RelPositionalEncoding`.
            key_padding_mask: B x T, true for keys to mask out.
        Returns:
            T x B x C, and None.
        """
        q, k, v = self.forward_qkv(query, key, value)
        p = self._heads(self.linear_pos(pos_emb))  # 1 x H x (2T-1) x D
        q_content = q + self.pos_bias_u.type_as(q).unsqueeze(1)
        q_position = q + self.pos_bias_v.type_as(q).unsqueeze(1)
        by_distance = relative_shift(torch.matmul(q_position * self.d_k**-0.5, p.transpose(-2, -1)))
        mask = additive_mask(key_padding_mask, None, by_distance)
        return self.attend(q_content, k, v, by_distance if mask is None else by_distance + mask), None


def relative_shift(x: Tensor) -> Tensor:
    """Convert scores by distance to scores by key: B x H x T x (2T-1) -> B x H x T x T, out[i, j] = x[i, T-1 - i + j].

    If the padded scores are read with rows one element shorter, each row starts one element earlier than the previous.
    """
    B, H, T, distances = x.shape
    padded = F.pad(x, (1, 0)).view(B, H, distances + 1, T)
    return padded[:, :, 1:].reshape(B, H, T, distances)[..., :T]


class RotaryPositionMultiHeadedAttention(ESPNETMultiHeadedAttention):
    """Self-attention on inputs rotated by their positions' angles (Su et al. 2021).

    fairseq: the rotation comes before the projections of queries and keys, not after as in the paper
    (fairseq/modules/espnet_multihead_attention.py). Checkpoints require that order.
    """

    def __init__(
        self, n_feat: int, n_head: int, dropout: float, precision: Any = None, rotary_emd_base: float = 10000
    ) -> None:
        super().__init__(n_feat, n_head, dropout)
        self.rotary_ndims = self.d_k
        self.rotary_emb = RotaryPositionalEmbedding(self.rotary_ndims, base=rotary_emd_base)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, None]:
        heads = (self.h, self.d_k)
        cos, sin = self.rotary_emb(query, seq_len=query.size(0))
        query, key = apply_rotary_pos_emb(query.unflatten(-1, heads), key.unflatten(-1, heads), cos, sin)
        return super().forward(query.flatten(2), key.flatten(2), value, key_padding_mask)
