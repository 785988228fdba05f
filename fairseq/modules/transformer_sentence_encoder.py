"""Initialisation of transformer weights."""

from __future__ import annotations

from torch import nn

from fairseq.modules.multihead_attention import MultiheadAttention

_DEVIATION = 0.02


def init_bert_params(module: nn.Module) -> None:
    """BERT's initial weights for one module, for use with `nn.Module.apply`.

    Linear, embedding and attention projections get weights from N(0, 0.02^2); linear biases and the padding row of an
    embedding 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=_DEVIATION)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    elif isinstance(module, MultiheadAttention):
        for projection in (module.q_proj, module.k_proj, module.v_proj):
            nn.init.normal_(projection.weight, std=_DEVIATION)
