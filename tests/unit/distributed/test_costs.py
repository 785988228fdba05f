"""Bytes held and exchanged, by arithmetic; tests/integration/test_strategies.py compares them with real tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed.costs import Costs, Weight, costs, in_words, weights_of


class Parted(nn.Module):
    """Two parts of 8 x 4 numbers each, and the rest: a codebook of 1 x 6 x 2, and a frozen vector of 3."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False)])
        self.codebook = nn.Parameter(torch.zeros(1, 6, 2))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def sharded_parts(self) -> list[nn.Module]:
        return list(self.parts)


def training(**keys: Any) -> DistributedTrainingConfig:
    return resolve_config({"distributed_training": keys}).distributed_training


@pytest.fixture(scope="module")
def weights() -> list[Weight]:
    with torch.device("meta"):
        return weights_of(Parted())


def test_weights_know_their_part(weights: list[Weight]) -> None:
    assert [(tuple(w.shape), w.is_trained, w.part) for w in weights] == [
        ((1, 6, 2), True, None),
        ((3,), False, None),
        ((8, 4), True, 0),
        ((8, 4), True, 1),
    ]


def test_every_process_of_ddp_and_flat_holds_everything(weights: list[Weight]) -> None:
    trained, everything = 4 * (64 + 12), 4 * (64 + 12 + 3)
    ddp = costs(weights, training(), 4, averages=True)
    assert ddp == Costs(everything, trained, 2 * trained, everything, trained, 0, 2 * trained * 3 // 4, False)
    assert costs(weights, training(), 4, bucket_view=True).buffers == 0
    flat = costs(weights, training(ddp_backend="flat"), 4, update_freq=16)
    assert flat == ddp._replace(average=0, buffers=0)
    halved = costs(weights, training(ddp_backend="flat", ddp_comm_hook="bf16"), 4)
    assert (halved.exchanged, halved.buffers) == (flat.exchanged // 2, trained // 2)
    assert costs(weights, training(ddp_backend="fully_sharded"), 1) == flat._replace(exchanged=0)


def test_sharded_tensors_are_divided_along_a_dimension_that_has_enough_rows(weights: list[Weight]) -> None:
    part, rest, trained = 4 * 32, 4 * 15, 4 * 76
    shards = 4 * (2 * 16 + 6)  # the codebook by its second dimension
    found = costs(weights, training(ddp_backend="fully_sharded"), 2, averages=True)
    assert found.parameters == found.average == shards + 4 * 2  # the frozen vector: 2 numbers and 1
    assert (found.gradients, found.optimizer) == (shards, 2 * shards)
    assert found.gathered == rest + 2 * part + part
    assert found.exchanged == ((2 * part + rest) + 2 * part + trained) // 2
    kept = costs(weights, training(ddp_backend="fully_sharded", no_reshard_after_forward=True), 2)
    assert (kept.gathered, kept.exchanged) == (2 * part + rest + part, ((2 * part + rest) + trained) // 2)
    cast = costs(weights, training(ddp_backend="fully_sharded"), 2, keeps_casts=True)
    assert cast.gathered == found.gathered + (2 * part + rest) // 2
    accumulating = costs(weights, training(ddp_backend="fully_sharded"), 2, update_freq=3)
    assert accumulating.gradients == shards + trained
    assert accumulating.exchanged == (3 * (4 * part + rest) + trained) // 2


def test_offloaded_shards_are_not_on_the_device(weights: list[Weight]) -> None:
    found = costs(weights, training(ddp_backend="fully_sharded", cpu_offload=True), 2, averages=True)
    assert found.on_device == found.gathered


def test_a_line_for_the_log() -> None:
    cost = Costs(2 * 2**30, 2**29, 2**30, 0, 0, 2**20, 2**21, False)
    assert str(cost) == (
        "each process holds weights 2.00 GB, gradients 512.00 MB, optimizer state 1.00 GB; gathers up to 1.00 MB at a "
        "time; sends 2.00 MB per update"
    )
    assert in_words(2**30 - 1) == "1024.00 MB"
