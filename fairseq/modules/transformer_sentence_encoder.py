"""Initialisation of transformer weights."""

from __future__ import annotations

from torch import nn

from fairseq.modules.multihead_attention import MultiheadAttention

_DEVIATION = 0.02


def init_bert_params(module: nn.Module) -> None:
    """Initialise one module as in BERT, for use with `nn.Module.apply`.

    Linear, embedding and attention projection weights are drawn from N(0, 0.02^2); linear biases and an embedding's
    padding row are 0.
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
