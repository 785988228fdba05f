"""The conformer encoder over latent frames, with relative or rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fairseq.models.wav2vec.audio_config import AudioModelConfig
from fairseq.models.wav2vec.encoder import LayerResult, TransformerEncoder, conformer_layer
from fairseq.modules import RelPositionalEncoding
from fairseq.modules.dropout import dropout
from fairseq.modules.gradients import with_zero_gradients


class ConformerEncoder(TransformerEncoder):
    """A stack of conformer blocks whose attention uses positions.

    fairseq: the positional convolution's parameters exist here too, although they are unused: checkpoints and the
    optimizer's parameter indices include them. With `static_layerdrop` they get zero gradients, which DDP waits for.
    """

    def __init__(self, args: AudioModelConfig) -> None:
        super().__init__(args)
        self.pos_enc_type = args.pos_enc_type
        self.embed_positions = (
            RelPositionalEncoding(args.max_positions, args.encoder_embed_dim)
            if args.pos_enc_type == "rel_pos"
            else None
        )

    def build_encoder_layer(self, args: AudioModelConfig, layer_idx: int = 0) -> nn.Module:
        return conformer_layer(args, pos_enc_type=args.pos_enc_type)

    def extract_features(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        tgt_layer: int | None = None,
        min_layer: int = 0,
        corpus_key: Sequence[int] | None = None,
    ) -> tuple[Tensor, list[LayerResult]]:
        """Same as the transformer's, without positional convolution and padding to a multiple."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0)
        x = x.transpose(0, 1)  # B x T x C -> T x B x C
        position_emb = None if self.embed_positions is None else self.embed_positions(x)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = dropout(x, self.dropout, self.training)
        if self.training and self.static_layerdrop:
            x = with_zero_gradients(x, self.pos_conv.parameters())
        x, layer_results = self._run_layers(
            x,
            tgt_layer,
            min_layer,
            corpus_key,
            self_attn_padding_mask=padding_mask,
            need_weights=False,
            position_emb=position_emb,
        )
        return x.transpose(0, 1), layer_results
