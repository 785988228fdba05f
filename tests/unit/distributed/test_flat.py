"""Gradients in flat buffers; the other process is a stand-in whose gradients are all 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairseq import device
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import flat
from fairseq.distributed.flat import Flat


def strategy(monkeypatch: pytest.MonkeyPatch, hook: str = "none", seen: list[Tensor] | None = None) -> Flat:
    def add_ones(tensor: Tensor) -> Tensor:
        if seen is not None:
            seen.append(tensor.clone())
        return tensor.add_(0.5)  # its 1, divided by the two processes

    monkeypatch.setattr(flat, "get_world_size", lambda: 2)
    monkeypatch.setattr(flat, "all_reduce", add_ones)
    cfg = resolve_config({"distributed_training": {"ddp_backend": "flat", "ddp_comm_hook": hook}})
    return Flat(cfg.distributed_training, device.get("cpu"))


def parameters() -> list[Tensor]:
    return [nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (), (1, 4))]


def accumulate(params: list[Tensor], value: float) -> None:
    for param in params:
        (param * value).sum().backward()


def test_a_gradient_is_the_mean_and_stays_a_view_of_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, params = strategy(monkeypatch), parameters()
    accumulate(params, 3.0)
    shared.reduce(params)
    assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in params)
    addresses = [p.grad.data_ptr() for p in params]
    assert len({p.grad.untyped_storage().data_ptr() for p in params}) == 1
    for p in params:
        p.grad.zero_()
    accumulate(params, 3.0)  # autograd adds to the views
    accumulate(params, 4.0)
    shared.reduce(params)
    assert all(torch.equal(p.grad, torch.full_like(p, 4.0)) for p in params)
    assert [p.grad.data_ptr() for p in params] == addresses


def test_a_parameter_that_is_frozen_for_a_while_is_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    shared, params = strategy(monkeypatch, seen=seen), parameters()
    accumulate(params[1:], 3.0)
    shared.reduce(params)
    assert params[0].grad is None and [len(tensor) for tensor in seen] == [5]
    accumulate(params[:1], 3.0)
    shared.reduce(params)
    assert [len(tensor) for tensor in seen] == [5, 11]
    assert [float(p.grad.mean()) for p in params] == [2.0, 1.5, 1.5]


def test_no_buffer_is_larger_than_the_limit_unless_one_gradient_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(flat, "MAX_BYTES", 4 * 5)
    shared, params = strategy(monkeypatch, seen=seen), parameters()
    accumulate(params, 3.0)
    shared.reduce(params)
    assert [len(tensor) for tensor in seen] == [6, 5]


def test_gradients_are_sent_in_the_dtype_of_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    shared, params = strategy(monkeypatch, "bf16", seen), parameters()
    accumulate(params, 3.01)
    shared.reduce(params)
    assert seen[0].dtype == torch.bfloat16
    sent = torch.tensor(3.01 / 2, dtype=torch.bfloat16) + 0.5
    assert all(p.grad.dtype == torch.float32 and bool((p.grad == sent.float()).all()) for p in params)
