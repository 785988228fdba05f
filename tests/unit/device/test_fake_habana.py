"""The stand-in refuses what the vendor's package refuses, and loses what HCCL loses; else tests with it would show
little.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fairseq.checkpoint import io
from fairseq.distributed import utils as distributed
from fairseq.modules import checkpoint_wrapper
from tests.conftest import FAKES


@pytest.fixture()
def hccl(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A group of one process over `hccl`, with gloo's beside it, as a run has them."""
    for name in ("RANK", "LOCAL_RANK", "ID", "HLS_MODULE_ID"):
        monkeypatch.setenv(name, "0")
    for name, value in {"WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    import habana_frameworks.torch.distributed.hccl  # noqa: F401

    dist.init_process_group("hccl", store=dist.HashStore(), rank=0, world_size=1)
    distributed.open_host_group()
    yield fake_habana
    distributed.close_groups(together=True)


def test_hccl_rounds_integers_and_refuses_the_average(hccl: ModuleType) -> None:
    count = torch.tensor([2**24 + 1])
    dist.all_reduce(count)
    assert count.item() == 2**24
    with pytest.raises(RuntimeError, match="AVG"):
        dist.all_reduce(torch.ones(1), op=dist.ReduceOp.AVG)


def test_our_collectives_keep_large_counts(hccl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)  # else a single process reduces nothing
    count = torch.tensor([64 * 1_400_000 + 1])
    assert distributed.all_reduce(count).item() == 64 * 1_400_000 + 1
    assert distributed.sum_on_host([2.0**24 + 1]) == [2.0**24 + 1]
    assert distributed.begin_max_on_host(3.0)() == 3.0
    assert hccl.count("allreduce") == 0
    work = distributed.all_reduce(torch.ones(1), async_op=True)
    work.wait()
    assert hccl.count("allreduce") == 1


def test_newer_keywords_of_torchs_are_refused(hccl: ModuleType) -> None:
    with pytest.raises(TypeError, match="device_id"):
        dist.init_process_group("hccl", device_id=torch.device("cpu"))


def test_ranks_must_be_known_before_the_import(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    import habana_frameworks.torch.distributed.hccl  # noqa: F401

    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RuntimeError, match="RANK.*must be set before"):
        dist.init_process_group("hccl", store=dist.HashStore(), rank=0, world_size=1)


def test_eager_mode_refuses_graphs(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "0")
    import habana_frameworks.torch.core as htcore

    for call in (
        lambda: torch.hpu.ModuleCacher(),
        lambda: torch.hpu.wrap_in_hpu_graph(nn.Linear(1, 1)),
        lambda: torch.hpu.HPUGraph(),
    ):
        with pytest.raises(RuntimeError, match="lazy mode"):
            call()
    with pytest.warns(UserWarning, match="does nothing in eager mode"):
        htcore.mark_step()


def test_what_does_not_exist(fake_habana: ModuleType) -> None:
    import habana_frameworks.torch.core as htcore
    from habana_frameworks.torch.hpu.metrics import metric_global

    assert not hasattr(torch.hpu, "empty_cache") and not hasattr(torch.hpu, "reset_max_memory_allocated")
    assert metric_global("graphs") is None
    with pytest.raises(TypeError):
        torch.hpu.synchronize("hpu")
    with pytest.raises(TypeError):
        htcore.mark_step(wait=True)


@pytest.mark.parametrize("masked", [False, True])
def test_its_attention_is_torchs(fake_habana: ModuleType, masked: bool) -> None:
    from habana_frameworks.torch.hpex.kernels import FusedSDPA

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.double, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.double).masked_fill_(torch.arange(5) > 2, -1e9) if masked else None
    results: list[Any] = []
    for attend in (
        lambda: FusedSDPA.apply(q, k, v, mask),
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ):
        out = attend()
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*results, strict=True))


def test_its_ctc_takes_lengths_on_the_device(fake_habana: ModuleType) -> None:
    from habana_frameworks.torch.hpex.kernels import CTCLoss

    log_probs = torch.randn(6, 2, 4).log_softmax(-1)
    targets, lengths = torch.tensor([[1, 2], [3, 0]]), (torch.tensor([6, 5]), torch.tensor([2, 1]))
    rest = (0, "sum", True)
    assert torch.equal(
        CTCLoss.apply(log_probs, targets, *lengths, *rest), F.ctc_loss(log_probs, targets, *lengths, *rest)
    )
    with pytest.raises(TypeError, match="input_lengths must be a tensor"):
        CTCLoss.apply(log_probs, targets, [6, 5], lengths[1])


# -- what the package replaces in torch --------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [True, False])
def test_lazy_mode_saves_with_protocol_4_unless_another_is_given(
    lazy: bool, fake_habana: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's weights_only reads protocol 2 alone; our checkpoints say so, whatever the default is."""
    read = torch.load
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1" if lazy else "0")
    import habana_frameworks.torch.core  # noqa: F401

    state = {"model": OrderedDict(weight=torch.ones(2)), "size": torch.Size([2])}
    torch.save(state, tmp_path / "theirs.pt")
    io.save(state, tmp_path / "ours.pt")
    assert _protocol(tmp_path / "theirs.pt") == (4 if lazy else 2) and _protocol(tmp_path / "ours.pt") == 2
    assert torch.equal(read(tmp_path / "ours.pt", weights_only=True)["model"]["weight"], torch.ones(2))
    if lazy:
        with pytest.raises(pickle.UnpicklingError):
            read(tmp_path / "theirs.pt", weights_only=True)


def _protocol(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return archive.read(name)[1]  # after the opcode PROTO


@pytest.mark.parametrize("lazy", [True, False])
def test_seeding_waits_for_the_pipeline_in_eager_mode(
    lazy: bool, fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1" if lazy else "0")
    import habana_frameworks.torch.core  # noqa: F401

    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), first)
    assert fake_habana.count("join_pending_pipeline_threads") == fake_habana.count("reset_seeds") == (0 if lazy else 2)


class ScaledDropout(nn.Module):
    """Weight times gradient is the output where the recomputed mask is the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x * self.weight, 0.5, self.training)


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_replayed_graph_draws_new_seeds_in_its_recomputation(recomputes: bool, fake_habana: ModuleType) -> None:
    """Why common.hpu_compile and model.checkpoint_activations are refused together."""
    import habana_frameworks.torch.core  # noqa: F401

    block = ScaledDropout()
    model = torch.hpu.ModuleCacher()(nn.Sequential(checkpoint_wrapper(block) if recomputes else block))
    agrees = []
    for seed in range(3):
        torch.manual_seed(seed)
        model.zero_grad()
        out = model(torch.ones(40, 50)).sum()
        out.backward()
        agrees.append((block.weight * block.weight.grad).item() == pytest.approx(out.item()))
    assert agrees == ([True, False, False] if recomputes else [True] * 3)  # the first pass is captured as it runs
    assert fake_habana.count("graph_captured") == 1


@pytest.mark.process
def test_a_process_leaves_what_it_found_at_the_import(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(FAKES),
        "FAKE_HABANA_RECORD": str(tmp_path),
        "PT_HPU_LAZY_MODE": "1",
        "RANK": "3",
    }
    script = "import habana_frameworks.torch.core as c, os; os.environ['PT_HPU_LATE'] = '1'; c.mark_step()"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert record["environment"]["PT_HPU_LAZY_MODE"] == "1" and record["environment"]["RANK"] == "3"
    assert (
        "PT_HPU_LATE" not in record["environment"] and record["calls"] == {"mark_step": 1} and not record["is_worker"]
    )
