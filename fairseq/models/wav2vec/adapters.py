"""Blocks with adapters, one per language, as in MMS' checkpoints (Pratap et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = ("relu", "gelu", "selu")
_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "selu": nn.SELU}


class AdapterFast(nn.Module):
    """Several adapters in one set of tensors: layer norm, down-projection, activation, up-projection.

    Args:
        adapter_num: number of adapters.
        input_dim: C, the encoder's width.
        hidden_dim: width inside an adapter.
        act_fn: relu, gelu or selu.
    Raises:
        ValueError: another activation.
    """

    def __init__(self, adapter_num: int, input_dim: int, hidden_dim: int, act_fn: str) -> None:
        super().__init__()
        if act_fn not in _MODULES:
            raise ValueError(f"model.adp_act_fn is {act_fn!r}. It must be one of: {', '.join(ACTIVATIONS)}.")
        self.adapter_num, self.input_dim, self.hidden_dim = adapter_num, input_dim, hidden_dim
        self.W_a = nn.Parameter(torch.empty(adapter_num, hidden_dim, input_dim))
        self.W_b = nn.Parameter(torch.empty(adapter_num, input_dim, hidden_dim))
        self.b_a = nn.Parameter(torch.empty(adapter_num, hidden_dim))
        self.b_b = nn.Parameter(torch.empty(adapter_num, input_dim))
        self.ln_W = nn.Parameter(torch.empty(adapter_num, input_dim))
        self.ln_b = nn.Parameter(torch.empty(adapter_num, input_dim))
        self.act_fn = _MODULES[act_fn]()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each adapter like two linear layers and a layer norm."""
        for weight, bias in ((self.W_a, self.b_a), (self.W_b, self.b_b)):
            for one in weight:
                nn.init.kaiming_uniform_(one, a=math.sqrt(5))
            nn.init.uniform_(bias, -(weight.size(2) ** -0.5), weight.size(2) ** -0.5)
        nn.init.ones_(self.ln_W)
        nn.init.zeros_(self.ln_b)

    def forward(self, x: Tensor, adapter_id: int) -> Tensor:
        """The output of one adapter, without the residual; any shape whose last dimension is C."""
        x = F.layer_norm(x, (self.input_dim,), self.ln_W[adapter_id], self.ln_b[adapter_id])
        x = self.act_fn(F.linear(x, self.W_a[adapter_id], self.b_a[adapter_id]))
        return F.linear(x, self.W_b[adapter_id], self.b_b[adapter_id])

    def extra_repr(self) -> str:
        return f"adapter={self.adapter_num}, input_dim={self.input_dim}, hidden_dim={self.hidden_dim}"


def layers_with_adapters(text: str, num_layers: int) -> list[bool]:
    """Whether each block has adapters, from `model.adp_trf_idx`: "all", or "first:end" as in Python's `range`.

    Raises:
        ValueError: the text is neither.
    """
    if text == "all":
        return [True] * num_layers
    parts = text.split(":")
    if len(parts) > 3 or not all(part.strip().isdecimal() for part in parts) or parts[2:] == ["0"]:
        raise ValueError(
            f"model.adp_trf_idx is {text!r}. It must be all, or first:end: the blocks with adapters, counted from 0."
        )
    chosen = range(*(int(part) for part in parts))
    return [number in chosen for number in range(num_layers)]


def adapter_of(corpus_key: Sequence[int] | None, adapter_num: int) -> int:
    """The adapter of a batch.

    Args:
        corpus_key: the number of each utterance's language, B; all must be the same. None: the only adapter.
    Raises:
        ValueError: None with several adapters, different languages, or a number that no adapter has.
    """
    if corpus_key is None:
        if adapter_num != 1:
            raise ValueError(
                f"The model has {adapter_num} adapters, and corpus_key is not set. Pass corpus_key=[number] * B, the "
                "number of the language to use."
            )
        return 0
    keys = {int(key) for key in corpus_key}
    if len(keys) != 1:
        raise ValueError(f"corpus_key has several languages ({sorted(keys)}). Make batches of one language.")
    (key,) = keys
    if not 0 <= key < adapter_num:
        raise ValueError(f"corpus_key is {key}, but the model has {adapter_num} adapters, counted from 0.")
    return key
