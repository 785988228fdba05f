"""Low-rank adaptation (Hu et al. 2021): a linear layer's weight stays, a product of two thin matrices is trained.

The package `peft` is not used: it wraps the model and renames its parameters, so checkpoints would no longer have
fairseq's names, and it needs transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq.modules.dropout import dropout

DOWN, UP = "lora_A", "lora_B"  # the paper's A and B
# of blocks of a transformer and a conformer: attention's projections and feed-forward layers
TARGETS = r"self_attn\.\w+|fc[12]|ffn[12]\.w_[12]"


@dataclass(frozen=True)
class LoRASettings:
    """How layers are adapted.

    Attributes:
        rank: rank of the update.
        alpha: the update is multiplied by alpha / rank.
        dropout: on the update's input.
    """

    rank: int
    alpha: float
    dropout: float = 0.0


class LoRALinear(nn.Linear):
    """`weight` x + `bias` + alpha / rank * `lora_B` `lora_A` x; `lora_B` starts at 0, so at first nothing changes.

    Args:
        layer: its weight and bias are used, not copied, under their names.
    """

    def __init__(self, layer: nn.Linear, settings: LoRASettings) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.settings, self.scale = settings, settings.alpha / settings.rank
        self.weight, self.bias = layer.weight, layer.bias
        empty = layer.weight.detach().new_empty
        self.lora_A = nn.Parameter(empty(settings.rank, self.in_features))
        self.lora_B = nn.Parameter(empty(self.out_features, settings.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear's weight
        nn.init.zeros_(self.lora_B)

    def forward(self, input: Tensor) -> Tensor:
        update = F.linear(dropout(input, self.settings.dropout, self.training), self.lora_A)
        return super().forward(input) + self.scale * F.linear(update, self.lora_B)

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same, with the update added to the weight."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(
            merge_weight(self.weight, self.lora_A, self.lora_B, self.scale), requires_grad=self.weight.requires_grad
        )
        layer.bias = self.bias
        return layer.train(self.training)


@torch.no_grad()
def merge_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Add the update to a weight, in fp32 at least; the result has the weight's dtype."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) + scale * up.to(wide) @ down.to(wide)).to(weight.dtype)


def add_lora(blocks: nn.Module, targets: str, settings: LoRASettings) -> int:
    """Replace the linear layers of `blocks` whose name within their block matches `targets`, in place.

    Args:
        blocks: a list of blocks, such as an encoder's `layers`.
        targets: regular expression that must match the whole name, such as "self_attn.q_proj".
    Returns:
        The number of replaced layers.
    Raises:
        ValueError: no layer matches.
    """
    wanted = re.compile(targets)
    names = [
        name
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) and wanted.fullmatch(_within_block(name))
    ]
    if not names:
        known = {_within_block(name) for name, module in blocks.named_modules() if isinstance(module, nn.Linear)}
        raise ValueError(
            f"model.lora_targets={targets!r} matches no layer of a block. Its layers are: {', '.join(sorted(known))}."
        )
    for name in names:
        _replace(blocks, name, LoRALinear(cast(nn.Linear, blocks.get_submodule(name)), settings))
    return len(names)


def merge_lora(model: nn.Module) -> int:
    """Replace the LoRA layers of a model by plain ones that compute the same, in place; returns their number."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    for name, layer in layers:
        _replace(model, name, layer.merged())
    return len(layers)


def merge_state(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Merge the updates in a model's state; names and order of all other parameters stay."""
    merged = {name: tensor for name, tensor in weights.items() if name.rpartition(".")[2] not in (DOWN, UP)}
    for layer in adapted_layers(weights):
        weight = f"{layer}.weight"
        merged[weight] = merge_weight(weights[weight], weights[f"{layer}.{DOWN}"], weights[f"{layer}.{UP}"], scale)
    return merged


def adapted_layers(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of the layers that a state has updates for."""
    return (name.removesuffix(f".{DOWN}") for name in weights if name.endswith(f".{DOWN}"))


def _within_block(name: str) -> str:
    return name.partition(".")[2]  # without the block's number


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
