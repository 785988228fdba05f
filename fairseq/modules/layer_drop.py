"""A list of layers that are skipped at random in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn


class LayerDropModuleList(nn.ModuleList):
    """A list of layers; each pass over it in training skips each layer with probability `p`.

    The wav2vec 2.0 encoder here does not use it: it draws for all layers of a pass at once.

    Args:
        p: probability of skipping a layer.
        modules: the layers.
    Source: LayerDrop, arXiv:1909.11556.
    """

    def __init__(self, p: float, modules: Iterable[nn.Module] | None = None) -> None:
        super().__init__(modules)
        self.p = p

    def __iter__(self) -> Iterator[nn.Module]:
        layers = list(super().__iter__())
        draws = torch.empty(len(layers)).uniform_().tolist()  # drawn in evaluation too, as fairseq does
        return (layer for layer, draw in zip(layers, draws, strict=True) if not self.training or draw > self.p)
