"""Bytes that each strategy holds and sends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed.costs import Costs, Sizes, costs, strategy_of

SIZES = Sizes(parameters=1000, gradients=800, optimizer=1600, average=1000, largest_block=90, outside=100)


def of(strategy: str, world: int, update_freq: int = 1, **keys: Any) -> Costs:
    return costs(SIZES, DistributedTrainingConfig(**keys), world, update_freq, strategy)


def test_sizes_of_a_model_without_memory() -> None:
    with torch.device("meta"):
        blocks = [nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False)]
        model = nn.Sequential(nn.Linear(4, 8, bias=False), *blocks)
    blocks[0].requires_grad_(False)
    assert Sizes.of(model, blocks, 2.0, averaged=True) == Sizes(4 * 224, 4 * 160, 8 * 160, 4 * 224, 4 * 128, 4 * 32)
    assert Sizes.of(model, [], 0.0, averaged=False) == Sizes(4 * 224, 4 * 160, 0, 0, 0, 4 * 224)


@pytest.mark.parametrize("strategy", ["pytorch_ddp", "flat", "fully_sharded"])
def test_a_single_process_exchanges_nothing(strategy: str) -> None:
    assert of(strategy, 1, 64) == Costs(1000, 800, 1600, 1000, 0, 0)
    assert of(strategy, 1).held == 4400


def test_every_process_holds_all_with_replicas() -> None:
    """An update is exchanged once, however many micro-batches it has."""
    for update_freq in (1, 8):
        assert of("pytorch_ddp", 4, update_freq) == Costs(1000, 800, 1600, 1000, 800, 1200)
        assert of("flat", 4, update_freq) == Costs(1000, 800, 1600, 1000, 0, 1200)
    assert of("pytorch_ddp", 4, gradient_as_bucket_view=True).buffers == 0


@pytest.mark.parametrize("strategy", ["pytorch_ddp", "flat"])
def test_a_comm_hook_halves_what_is_sent(strategy: str) -> None:
    assert of(strategy, 4, ddp_comm_hook="fp16").sent == 600
    assert of("flat", 4, ddp_comm_hook="fp16").buffers == 400


def test_shards_are_a_part_and_the_blocks_in_use_whole() -> None:
    """Gathered for forward and for backward; what is outside of blocks only once."""
    found = of("fully_sharded", 4)
    assert found[:4] == (250, 200, 400, 250)
    assert found.buffers == 2 * 100 + 3 * 90
    assert found.sent == 0.75 * (1000 + 900 + 800)


def test_shards_with_several_micro_batches() -> None:
    """Each gathers the weights; whole gradients are added up, and reduced once."""
    found = of("fully_sharded", 4, 8)
    assert found[:4] == (250, 200, 400, 250)
    assert found.buffers == 100 + 2 * 90 + 800
    assert found.sent == 0.75 * (8 * (1000 + 900) + 800)


def test_keys_of_sharding() -> None:
    kept = of("fully_sharded", 4, no_reshard_after_forward=True)
    assert kept.buffers == 1000 + 100 + 90 and kept.sent == 0.75 * (1000 + 800)
    offloaded = of("fully_sharded", 4, cpu_offload=True)
    assert offloaded[:4] == (0, 0, 0, 250) and offloaded.buffers == 2 * 100 + 3 * 90


def test_other_names_of_ddp() -> None:
    for name in ("c10d", "no_c10d", "legacy_ddp", "pytorch_ddp"):
        assert strategy_of(DistributedTrainingConfig(ddp_backend=name)) == "pytorch_ddp"
    assert strategy_of(DistributedTrainingConfig(ddp_backend="fully_sharded")) == "fully_sharded"
