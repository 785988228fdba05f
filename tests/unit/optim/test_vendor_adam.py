"""Adam by the vendor's kernel: the same update and the same state as ours, skipped updates, checkpoints to and fro."""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.dataclass.configs import CommonConfig
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from fairseq.optim.vendor_adam import VendorAdam

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}
SHAPES = ((7, 5), (3,), (4, 2, 3))


@pytest.fixture()
def kernel(fake_habana: ModuleType) -> type[torch.optim.Optimizer]:
    device = device_layer.select(OmegaConf.structured(CommonConfig(hpu=True)))
    found = device.fused_adam()
    assert found is not None and found.__name__ == "FusedAdamW"
    return found


def params(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(1e-3 * torch.randn(*shape, generator=generator)) for shape in SHAPES]


def set_gradients(values: list[nn.Parameter], step: int, scale: float = 1e-6, missing: int | None = None) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for number, p in enumerate(values):
        grad = scale * torch.randn(p.shape, generator=generator)
        p.grad = None if number == missing else grad


def train(
    optimizer: Adam,
    values: list[nn.Parameter],
    steps: range,
    skipped: tuple[int, ...] = (),
    missing: tuple[int, ...] = (),
) -> None:
    for step in steps:
        set_gradients(values, step, missing=1 if step in missing else None)
        if step in skipped:
            values[0].grad[0] = float("nan")
        optimizer.step(found_inf=torch.tensor(float(step in skipped)), grad_scale=torch.tensor(2.0))


def furthest(first: list[nn.Parameter], second: list[nn.Parameter]) -> float:
    return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(first, second, strict=True))


def states_equal(one: Adam, other: Adam) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first["param_groups"] == second["param_groups"] and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(second["state"][index][key]))
        for index, entry in first["state"].items()
        for key, value in entry.items()
    )


def test_the_update_is_ours_up_to_rounding(kernel: type[torch.optim.Optimizer]) -> None:
    ours, theirs = params(), params()
    train(Adam(ours, fused=False, **SETTINGS), ours, range(50), missing=(3, 4))
    train(VendorAdam(theirs, kernel, **SETTINGS), theirs, range(50), missing=(3, 4))
    assert furthest(theirs, params()) > 0 and furthest(theirs, ours) < 1e-6


def test_a_skipped_update_leaves_everything_as_it_was(kernel: type[torch.optim.Optimizer]) -> None:
    values = params()
    optimizer = VendorAdam(values, kernel, **SETTINGS)
    train(optimizer, values, range(3))
    weights, state = [p.detach().clone() for p in values], copy.deepcopy(optimizer.state_dict())
    train(optimizer, values, range(3, 4), skipped=(3,))
    optimizer.sync_steps()
    assert all(torch.equal(p, before) for p, before in zip(values, weights, strict=True))
    after = optimizer.state_dict()["state"]
    for index, entry in state["state"].items():
        assert entry.keys() == after[index].keys()
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(after[index][key])) for key, value in entry.items()
        )
    unbroken = params()
    reference = VendorAdam(unbroken, kernel, **SETTINGS)
    train(reference, unbroken, range(3))
    train(reference, unbroken, range(4, 7))
    train(optimizer, values, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(values, unbroken, strict=True))


@pytest.mark.parametrize("to_vendor", [True, False])
def test_the_state_moves_between_devices_exactly(kernel: type[torch.optim.Optimizer], to_vendor: bool) -> None:
    values = params()
    there = [lambda p: Adam(p, fused=False, **SETTINGS), lambda p: VendorAdam(p, kernel, **SETTINGS)]
    first, second = (there[0], there[1]) if to_vendor else (there[1], there[0])
    optimizer = first(values)
    train(optimizer, values, range(10), skipped=(4,), missing=(2, 6))
    optimizer.sync_steps()
    others = [nn.Parameter(p.detach().clone()) for p in values]
    resumed = second(others)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert states_equal(resumed, optimizer)
    assert [int(entry["step"]) for entry in resumed.state_dict()["state"].values()] == [9, 7, 9]
    train(optimizer, values, range(10, 20))
    train(resumed, others, range(10, 20))
    assert furthest(others, values) < 1e-6  # rounding of two implementations of one formula
    back = first([nn.Parameter(p.detach().clone()) for p in others])
    back.load_state_dict(copy.deepcopy(resumed.state_dict()))
    assert states_equal(back, resumed)


def test_parameters_with_other_counts_are_launched_apart(
    kernel: type[torch.optim.Optimizer], fake_habana: ModuleType
) -> None:
    values = params()
    optimizer = VendorAdam(values, kernel, **SETTINGS)
    train(optimizer, values, range(3))
    assert fake_habana.count("FusedAdamW") == 1 and len(optimizer._kernel.param_groups) == 1
    train(optimizer, values, range(3, 6), missing=(3,))
    assert [len(group["params"]) for group in optimizer._kernel.param_groups] == [2, 1]
    assert [group["step"] for group in optimizer._kernel.param_groups] == [6, 5]


def build(use_fused: object, values: list[nn.Parameter], **settings: object) -> FairseqAdam:
    return FairseqAdam(
        OmegaConf.create({**vars(FairseqAdamConfig()), "lr": [1e-3], "use_fused": use_fused, **settings}), values
    )


def test_the_kernel_gets_no_empty_parameters(kernel: type[torch.optim.Optimizer]) -> None:
    """Of a sharded model, a process can hold shards without elements; their state is saved like the others'."""
    values = [nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))]
    optimizer = VendorAdam(values, kernel, **SETTINGS)
    for _ in range(2):
        for p in values:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer._kernel is not None and [p.numel() for p in optimizer._kernel.param_groups[0]["params"]] == [2]
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [2, 2]
    alone = VendorAdam(values[:1], kernel, **SETTINGS)
    alone.step()
    assert alone.state_dict()["state"][0]["step"] == 1


def test_use_fused_on_hpu(kernel: type[torch.optim.Optimizer]) -> None:
    assert isinstance(build("auto", params()).optimizer, VendorAdam) and build("auto", params()).uses_vendor_kernel
    assert isinstance(build(True, params()).optimizer, VendorAdam)
    plain = build(False, params()).optimizer
    assert type(plain) is Adam and not plain.fused
    assert type(build("auto", params(), use_old_adam=True).optimizer) is Adam


def test_without_the_kernel(kernel: type[torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.device.hpu._import", lambda module, name: None)  # a release without it
    plain = build("auto", params()).optimizer
    assert type(plain) is Adam and not plain.fused
    with pytest.raises(ValueError, match="use_fused=true, but hpu has no fused Adam"):
        build("true", params())


def test_use_fused_on_cpu() -> None:
    assert build("auto", params()).optimizer.fused and build("True", params()).optimizer.fused
    assert not build("false", params()).optimizer.fused
    with pytest.raises(ValueError, match="auto, true or false"):
        build("yes", params(), _name="adam")


def test_the_clipping_kernel(fake_habana: ModuleType) -> None:
    device = device_layer.select(OmegaConf.structured(CommonConfig(hpu=True)))
    values = params()
    set_gradients(values, 0, scale=1.0)
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in values]))
    clip = device.fused_clip_norm(values, 1.0)
    assert clip is not None
    found: Tensor = clip()
    assert found.dim() == 0 and torch.allclose(found, norm)
    clipped = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in values]))
    assert torch.allclose(clipped, torch.ones(()), atol=1e-5)
