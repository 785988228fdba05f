"""Layers of which each is left out by chance in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn


class LayerDropModuleList(nn.ModuleList):
    """A list of layers; in training every pass over it leaves each layer out with probability `p` (LayerDrop,
    arXiv:1909.11556).

    The wav2vec 2.0 encoder here does not use it: it draws all layers of a pass together.

    Args:
        p: probability of leaving a layer out.
        modules: the layers.
    """

    def __init__(self, p: float, modules: Iterable[nn.Module] | None = None) -> None:
        super().__init__(modules)
        self.p = p

    def __iter__(self) -> Iterator[nn.Module]:
        layers = list(super().__iter__())
        draws = torch.empty(len(layers)).uniform_().tolist()  # drawn in evaluation too, as fairseq does
        return (layer for layer, draw in zip(layers, draws, strict=True) if not self.training or draw > self.p)
