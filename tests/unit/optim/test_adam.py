"""Adam against the formula written out in double precision, on both arms; skipping on the device; states from
elsewhere.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fairseq.optim import build_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig, parse_betas

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}


def params(scale=1e-3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(scale * torch.randn(*shape, generator=generator)) for shape in ((7, 5), (3,), (4, 2, 3))]


def gradients(step, scale):
    generator = torch.Generator().manual_seed(100 + step)
    return [scale * torch.randn(*shape, generator=generator) for shape in ((7, 5), (3,), (4, 2, 3))]


def by_formula(start, grads_of_steps, lr, betas, eps, weight_decay):
    """fairseq's update, in float64, one number of updates per parameter (None: no gradient in that update)."""
    beta1, beta2 = betas
    values = [p.detach().double() for p in start]
    means, squares, counts = (
        [torch.zeros_like(v) for v in values],
        [torch.zeros_like(v) for v in values],
        [0] * len(values),
    )
    for grads in grads_of_steps:
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            counts[i] += 1
            means[i] = beta1 * means[i] + (1 - beta1) * grad.double()
            squares[i] = beta2 * squares[i] + (1 - beta2) * grad.double() ** 2
            rate = lr * math.sqrt(1 - beta2 ** counts[i]) / (1 - beta1 ** counts[i])
            values[i] = values[i] - lr * weight_decay * values[i]
            values[i] = values[i] - rate * means[i] / (squares[i].sqrt() + eps)
    return values


def run(optimizer, values, grads_of_steps, **step_arguments):
    for grads in grads_of_steps:
        for p, grad in zip(values, grads, strict=True):
            p.grad = None if grad is None else grad.clone()
        optimizer.step(**step_arguments)
    return values


def assert_close(values, expected, tolerance=3e-6):  # fp32 rounding over 50 updates
    for value, wanted in zip(values, expected, strict=True):
        assert (value.detach().double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("fused", [True, False])
# at 1e-6 the gradient's root mean square is eps, at 1e-9 far below it
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9])
def test_equals_the_formula(fused, scale):
    values = params()
    steps = [gradients(step, scale) for step in range(50)]
    expected = by_formula(values, steps, **SETTINGS)
    assert_close(run(Adam(values, fused=fused, **SETTINGS), values, steps), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_a_left_out_layer_keeps_its_own_count(fused):
    values = params()
    steps = [gradients(step, 1e-6) for step in range(12)]
    for step in (0, 1, 5, 9):
        steps[step][1] = None  # layerdrop
    expected = by_formula(values, steps, **SETTINGS)
    optimizer = Adam(values, fused=fused, **SETTINGS)
    assert_close(run(optimizer, values, steps), expected)
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [12, 8, 12]


@pytest.mark.parametrize("fused", [True, False])
def test_scale_divides_and_found_inf_skips(fused):
    good, bad = torch.tensor(0.0), torch.tensor(1.0)
    values, plain = params(), params()
    optimizer, reference = Adam(values, fused=fused, **SETTINGS), Adam(plain, fused=fused, **SETTINGS)
    nan = [torch.full_like(p, float("nan")) for p in values]
    # skipped in the very first update
    run(optimizer, values, [nan], found_inf=bad, grad_scale=torch.tensor(float("nan")))
    optimizer.sync_steps()
    for step in range(6):
        grads = gradients(step, 1e-3)
        run(optimizer, values, [[64 * g for g in grads]], found_inf=good, grad_scale=torch.tensor(64.0))
        run(reference, plain, [grads])
        if step == 3:
            before = copy.deepcopy(optimizer.state_dict()["state"])
            run(optimizer, values, [nan], found_inf=bad, grad_scale=torch.tensor(float("nan")))
            after = optimizer.state_dict()["state"]
            assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)
            assert all(torch.equal(before[i]["exp_avg_sq"], after[i]["exp_avg_sq"]) for i in before)
            assert [before[i]["step"] for i in before] == [after[i]["step"] for i in after] == [4, 4, 4]
        optimizer.sync_steps()
    for value, wanted in zip(values, plain, strict=True):
        assert torch.allclose(value, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_resume_between_a_skip_and_its_discovery_is_exact(fused):
    def life(values, optimizer, first, last):
        for step in range(first, last):
            run(optimizer, values, [gradients(step, 1e-6)], found_inf=torch.tensor(float(step in (2, 3))))

    unbroken = params()
    life(unbroken, Adam(unbroken, fused=fused, **SETTINGS), 0, 10)
    first = params()
    optimizer = Adam(first, fused=fused, **SETTINGS)
    life(first, optimizer, 0, 5)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = Adam(second, fused=fused, **SETTINGS)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    life(second, resumed, 5, 10)
    assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_a_frozen_parameter_has_no_state_and_begins_late(fused):
    """Saved and resumed while it is frozen, and again; its own count begins with its first gradient, as in fairseq."""
    steps = [gradients(step, 1e-6) for step in range(6)]
    for step in range(4):
        steps[step][1] = None
    unbroken, values = params(), params()
    expected = run(Adam(unbroken, fused=fused, **SETTINGS), unbroken, steps)
    frozen, optimizer = values[1].detach().clone(), Adam(values, fused=fused, **SETTINGS)
    for step, grads in enumerate(steps):
        run(optimizer, values, [grads])
        state = optimizer.state_dict()
        counts = {index: entry["step"] for index, entry in state["state"].items()}
        assert counts == ({0: step + 1, 2: step + 1} if step < 4 else {0: step + 1, 1: step - 3, 2: step + 1})
        assert step >= 4 or torch.equal(values[1], frozen)
        optimizer = Adam(values, fused=fused, **SETTINGS)
        optimizer.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


def test_gradient_in_another_memory_order():
    values, transposed = [nn.Parameter(torch.randn(4, 3, 5))], None
    transposed = [nn.Parameter(values[0].detach().clone())]
    grad = torch.randn(4, 3, 5)
    run(Adam(values, **SETTINGS), values, [[grad]])
    transposed[0].grad = grad.transpose(0, 2).contiguous().transpose(0, 2)
    assert transposed[0].grad.stride() != transposed[0].stride()
    Adam(transposed, **SETTINGS).step()
    assert torch.equal(values[0], transposed[0])


def test_step_reads_nothing_back_but_through_the_kernel():
    """No operator of a step moves a value to the host (decision 7): neither item() nor nonzero."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    for fused in (True, False):
        seen: list[str] = []
        values = params()
        optimizer = Adam(values, fused=fused, **SETTINGS)
        for p, grad in zip(values, gradients(0, 1.0), strict=True):
            p.grad = grad
        with Recorder():
            optimizer.step(found_inf=torch.tensor(0.0), grad_scale=torch.tensor(2.0))
        assert seen and not [
            name for name in seen if "local_scalar" in name or "nonzero" in name or "is_nonzero" in name
        ]


def test_loads_what_fairseq_wrote(shared_dir):
    path = shared_dir / "reference" / "checkpoints" / "fairseq_pretrained_tiny.pt"
    if not path.exists():
        pytest.skip(f"no {Path(path).name}")
    checkpoint = torch.load(path, weights_only=True)
    saved = checkpoint["last_optimizer_state"]
    order = [nn.Parameter(torch.zeros_like(saved["state"][i]["exp_avg"])) for i in range(len(saved["state"]))]
    optimizer = Adam(order, **SETTINGS)
    optimizer.load_state_dict(saved)
    again = optimizer.state_dict()
    assert again["param_groups"][0]["params"] == saved["param_groups"][0]["params"]
    for index, entry in saved["state"].items():
        assert set(again["state"][index]) == {"step", "exp_avg", "exp_avg_sq"}
        assert again["state"][index]["step"] == entry["step"] == 3
        assert torch.equal(again["state"][index]["exp_avg"], entry["exp_avg"])
        assert torch.equal(again["state"][index]["exp_avg_sq"], entry["exp_avg_sq"])


def test_continues_a_plain_and_a_flat_state_alike():
    """fairseq's fp16 training keeps one flat vector for all parameters; torch's AdamW keeps steps as tensors."""
    values = params()
    optimizer = Adam(values, **SETTINGS)
    run(optimizer, values, [gradients(step, 1e-3) for step in range(3)])
    state = optimizer.state_dict()
    flat_entry = {
        key: torch.cat([state["state"][i][key].flatten() for i in range(3)]) for key in ("exp_avg", "exp_avg_sq")
    }
    flat = {
        "state": {0: {"step": 3, **flat_entry}},
        "param_groups": [{**state["param_groups"][0], "params": [0]}],
        "loss_scale": 128,
    }
    tensors = copy.deepcopy(state)
    for entry in tensors["state"].values():
        entry["step"] = torch.tensor(float(entry["step"]))
    results = []
    for given in (state, flat, tensors):
        continued = [nn.Parameter(p.detach().clone()) for p in values]
        resumed = Adam(continued, **SETTINGS)
        resumed.load_state_dict(given)
        results.append(run(resumed, continued, [gradients(3, 1e-3)]))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_state_of_another_model_is_refused():
    optimizer = Adam(params(), **SETTINGS)
    run(optimizer, [p for g in optimizer.param_groups for p in g["params"]], [gradients(0, 1.0)])
    with pytest.raises(ValueError, match=r"has 3 parameters, but this model trains 2.*reset_optimizer"):
        Adam(params()[:2], **SETTINGS).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"state 0 has shape \(7, 5\)"):
        Adam(params()[1:2] + params()[:2], **SETTINGS).load_state_dict(optimizer.state_dict())


def config(**changes):
    return OmegaConf.structured(FairseqAdamConfig(**{"lr": [5e-4, 1e-4], "tpu": False, **changes}))


def test_config_reaches_the_torch_optimizer():
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    cfg = OmegaConf.create(
        {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-6, "weight_decay": 0.01, "lr": [5e-4]}
    )
    optimizer = build_optimizer(cfg, [*params(), frozen, {"criterion_weight": nn.Parameter(torch.zeros(1))}])
    assert isinstance(optimizer, FairseqAdam) and len(list(optimizer.params)) == 4
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (5e-4, (0.9, 0.98), 1e-6, 0.01)
    optimizer.set_lr(0.5)
    assert optimizer.get_lr() == 0.5


@pytest.mark.parametrize("betas", ["(0.9, 0.98)", "[0.9,0.98]", (0.9, 0.98), [0.9, 0.98]])
def test_betas(betas):
    assert parse_betas(betas) == (0.9, 0.98)


@pytest.mark.parametrize("betas", ["__import__('os')", "0.9", "(0.9,)", 0.9, (0.9, 1.0), ("a", "b")])
def test_wrong_betas_are_named(betas):
    with pytest.raises(ValueError, match="adam_betas"):
        parse_betas(betas)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="fp16_adam_stats"):
        FairseqAdam(config(fp16_adam_stats=True), params())
    with pytest.raises(ValueError, match="optimization.lr"):
        FairseqAdam(FairseqAdamConfig(), params())  # stand-alone: nothing resolves ${optimization.lr}


def test_the_config_wins_over_the_checkpoint_and_overrides_over_both(caplog):
    caplog.set_level(logging.INFO)
    values = params()
    before = FairseqAdam(config(weight_decay=0.1), values)
    run(before, values, [gradients(0, 1.0)])
    after = FairseqAdam(config(weight_decay=0.2, adam_betas=(0.8, 0.9)), params())
    after.load_state_dict(before.state_dict(), {"eps": 1e-3})
    group = after.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.2, (0.8, 0.9), 1e-3)
    assert "weight_decay: 0.2 from here on (the checkpoint was trained with 0.1)" in caplog.text


def test_another_torch_optimizer_is_skipped_too():
    from fairseq.optim import FairseqOptimizer

    class Sgd(FairseqOptimizer):
        def __init__(self, values):
            super().__init__(None)
            self._optimizer = torch.optim.SGD(values, lr=1.0)

    p = nn.Parameter(torch.tensor([1.0]))
    optimizer = Sgd([p])
    p.grad = torch.tensor([4.0])
    optimizer.step(found_inf=torch.tensor(1.0), grad_scale=torch.tensor(8.0))
    assert p.item() == 1.0
    p.grad = torch.tensor([4.0])
    optimizer.step(found_inf=torch.tensor(0.0), grad_scale=torch.tensor(8.0))
    assert p.item() == 0.5
    optimizer.multiply_grads(torch.tensor(4.0))
    assert p.grad.item() == 2.0
    optimizer.sync_steps()
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.process
def test_a_step_and_its_checkpoint_do_not_import_torchs_compiler() -> None:
    """It would take 2 s of every start."""
    code = (
        "import sys, torch; from fairseq.optim.adam_update import Adam; weight = torch.nn.Parameter(torch.ones(1)); "
        "adam = Adam([weight]); weight.grad = torch.ones(1); adam.step(); adam.zero_grad(); "
        "adam.load_state_dict(adam.state_dict()); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
