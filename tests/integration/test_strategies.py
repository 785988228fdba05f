"""The strategies by which processes share a model train the same, in two processes on CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq.checkpoint import io
from tests import strategy_runs

CASES = {"base": {}, "conformer": strategy_runs.CONFORMER}
NEAR = 1e-5  # relative difference of losses

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(torch.__version__ < "2.6", reason="fully_sharded needs torch 2.6"),
]


@pytest.mark.parametrize("name", CASES)
def test_all_strategies_train_the_same(name: str, corpus: Path, tmp_path: Path) -> None:
    """With dropout, layerdrop, two micro-batches an update, activation checkpointing and a running average."""
    cfg = strategy_runs.settings(corpus, tmp_path, model=CASES[name])
    for rank, report in enumerate(strategy_runs.compare(cfg, 3, tmp_path / "report")):
        ddp, flat, sharded = (report[backend] for backend in strategy_runs.BACKENDS)
        assert [found["name"] for found in (ddp, flat, sharded)] == list(strategy_runs.BACKENDS)
        assert flat["losses"] == ddp["losses"]  # a sum of two numbers has one order
        assert strategy_runs.difference(ddp["losses"], sharded["losses"]) < NEAR
        assert flat["held"] == ddp["held"] and sharded["codewords"] == ddp["codewords"]
        for held in ("parameters", "gradients", "optimizer", "average"):
            assert sharded["held"][held] <= 0.55 * ddp["held"][held]
        if rank == 0:  # it has the largest shards, which the costs are about
            for found in (ddp, flat, sharded):
                assert_costs_are_right(found["costs"], found["held"])


def assert_costs_are_right(costs: dict[str, Any], held: dict[str, int]) -> None:
    assert (costs["parameters"], costs["optimizer"]) == (held["parameters"], held["optimizer"])
    assert costs["gradients"] >= held["gradients"]  # whole ones too, while micro-batches are accumulated
    assert 0 <= held["average"] - costs["average"] < 1000  # the average has the conformer's buffers


def tensors(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield path, state
    for key, value in state.items() if isinstance(state, dict) else ():
        yield from tensors(value, f"{path}.{key}")


def test_a_run_continues_with_other_strategies(corpus: Path, tmp_path: Path) -> None:
    cfg = strategy_runs.settings(corpus, tmp_path)
    runs = {
        "unbroken": [("pytorch_ddp", 4)],
        "changing": [("pytorch_ddp", 1), ("fully_sharded", 2), ("flat", 1)],
    }
    losses = strategy_runs.continued(cfg, runs, tmp_path / "report")
    assert strategy_runs.difference(losses["unbroken"], losses["changing"]) < NEAR
    one, other = (dict(tensors(io.load(tmp_path / name / "checkpoint_last.pt"))) for name in runs)
    assert one.keys() == other.keys()
    for path, tensor in one.items():
        torch.testing.assert_close(other[path], tensor, rtol=1e-4, atol=1e-6, msg=path)


def test_fine_tuning_with_a_frozen_encoder(labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """The encoder is frozen for two of the updates; only rank 0's weights come from the pre-trained model."""
    data = shutil.copytree(labelled, tmp_path / "data")
    shutil.copy(pretrained_files["base"], data / "base.pt")
    cfg = strategy_runs.settings(data, tmp_path, finetuning=True, task={"normalize": False})
    for report in strategy_runs.compare(cfg, 4, tmp_path / "report"):
        ddp, flat, sharded = (report[backend]["losses"] for backend in strategy_runs.BACKENDS)
        assert flat == ddp and strategy_runs.difference(ddp, sharded) < NEAR


_GROUP = {"optimizer": {"_name": "adam"}, "lr_float": 0.001}
COMPOSITE = {
    "_name": "composite",
    "layer_decay": 0.5,
    "groups": {"biases": {**_GROUP, "pattern": "bias$", "lr_scale": 2.0}, "default": _GROUP},
}


def test_mixed_precision_an_optimizer_of_groups_and_offloading(corpus: Path, tmp_path: Path) -> None:
    cfg = strategy_runs.settings(corpus, tmp_path, common={"bf16": True})
    cfg.optimizer = COMPOSITE
    ddp = strategy_runs.compare(cfg, 2, tmp_path / "ddp", ["pytorch_ddp"])[0]["pytorch_ddp"]
    cfg.distributed_training.ddp_backend = "fully_sharded"
    cfg.distributed_training.cpu_offload = cfg.distributed_training.no_reshard_after_forward = True
    sharded = strategy_runs.compare(cfg, 2, tmp_path / "sharded", ["fully_sharded"])[0]["fully_sharded"]
    assert strategy_runs.difference(ddp["losses"], sharded["losses"]) < NEAR
