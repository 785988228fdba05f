"""Blocks that other projects take from fairseq.modules and that no model here uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq.modules import LayerDropModuleList
from fairseq.modules.quant_noise import quant_noise


def test_layers_are_left_out_in_training_only() -> None:
    torch.manual_seed(0)
    layers = LayerDropModuleList(0.25, [nn.Identity() for _ in range(4)])
    passes = [len(list(layers)) for _ in range(2000)]
    assert abs(sum(passes) / 2000 - 3) < 0.08 and min(passes) < 3  # expectation 4 x 0.75; 5 standard errors are 0.1
    layers.eval()
    assert [len(list(layers)) for _ in range(20)] == [4] * 20
    assert len(LayerDropModuleList(0.5)) == 0


def test_which_layers_stay_is_what_the_generator_says() -> None:
    layers = LayerDropModuleList(0.5, [nn.Identity() for _ in range(8)])
    torch.manual_seed(3)
    draws = torch.empty(8).uniform_()
    torch.manual_seed(3)
    assert list(layers) == [layer for layer, draw in zip(list(layers.children()), draws, strict=True) if draw > 0.5]


def blocks_of(layer: nn.Module, block_size: int) -> torch.Tensor:
    return layer.weight.detach().reshape(-1, block_size)


@pytest.mark.parametrize(
    ("layer", "block_size"),
    [(nn.Linear(8, 500), 4), (nn.Embedding(500, 8), 4), (nn.Conv2d(8, 500, 1), 4), (nn.Conv2d(2, 500, 3), 9)],
)
def test_noise_drops_whole_blocks_and_scales_the_rest(layer: nn.Module, block_size: int) -> None:
    torch.manual_seed(0)
    nn.init.ones_(layer.weight)
    assert quant_noise(layer, 0.2, block_size) is layer
    x = torch.zeros(1, dtype=torch.long) if isinstance(layer, nn.Embedding) else torch.zeros(1, 8, 3, 3)
    x = (
        torch.zeros(1, layer.in_channels, 3, 3)
        if isinstance(layer, nn.Conv2d)
        else (torch.zeros(1, 8) if x.is_floating_point() else x)
    )
    layer.eval()(x)
    assert (layer.weight == 1).all()
    layer.train()(x)
    blocks = blocks_of(layer, block_size)
    dropped = (blocks == 0).all(dim=1)
    assert torch.equal(blocks[~dropped], torch.full_like(blocks[~dropped], 1.25))  # 1 / (1 - 0.2)
    assert abs(dropped.float().mean() - 0.2) < 0.06


def test_no_noise_changes_nothing() -> None:
    layer = nn.GELU()
    assert quant_noise(layer, 0, 8) is layer


def test_sizes_and_layers_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="number of input features is 8. It must be a multiple of block_size=3"):
        quant_noise(nn.Linear(8, 2), 0.1, 3)
    with pytest.raises(ValueError, match="got GELU"):
        quant_noise(nn.GELU(), 0.1, 3)
