"""The running average of weights: its numbers, its buffers, and its way through a checkpoint."""

from __future__ import annotations

import copy
import io as bytes_io

import pytest
import torch
from torch import nn

from fairseq.checkpoint import io
from fairseq.dataclass.configs import EMAConfig
from fairseq.training.ema import EMA


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@torch.no_grad()
def move(net, by):
    for parameter in net.parameters():
        parameter.add_(by)
    net[1].running_mean.add_(by)
    net[1].num_batches_tracked.add_(1)


def test_average_equals_its_formula_and_buffers_are_copied():
    net = model()
    average, expected = EMA(net, EMAConfig(ema_decay=0.9)), net[0].weight.detach().double()
    for update in range(1, 21):
        move(net, 0.1 * update)
        average.step(net, update)
        expected = 0.9 * expected + 0.1 * net[0].weight.detach().double()
    state = average.state_dict()
    assert torch.allclose(state["0.weight"].double(), expected, atol=1e-6)
    assert torch.equal(state["1.running_mean"], net[1].running_mean) and state["1.num_batches_tracked"] == 20
    assert list(state) == list(net.state_dict()) and not state["0.weight"].requires_grad


def test_start_and_frequency():
    net = model()
    average = EMA(net, EMAConfig(ema_decay=0.5, ema_start_update=4, ema_update_freq=2))
    first = net[0].bias.detach().clone()
    history = []
    for update in range(1, 7):
        move(net, 1.0)
        average.step(net, update)
        history.append((average.state_dict()["0.bias"] - first)[0].item())
    assert history == pytest.approx([0, 2, 2, 3, 3, 4.5], abs=1e-5)  # copied at 2, averaged at 4 and 6
    counted = EMA(model(), EMAConfig(ema_update_freq=2, ema_decay=0.0))
    move(net, 1.0)
    counted.step(net)
    assert not torch.equal(counted.params["0.bias"], net[0].bias)
    counted.step(net)
    assert torch.equal(counted.params["0.bias"], net[0].bias)


def test_state_goes_through_a_checkpoint_exactly():
    net = model()
    whole = EMA(net, EMAConfig(ema_decay=0.9, ema_update_freq=2))
    resumed = None
    for update in range(1, 8):
        move(net, 0.3)
        whole.step(net, update)
        if resumed is not None:
            resumed.step(net, update)
        if update == 3:
            buffer = bytes_io.BytesIO()
            torch.save(whole.state_dict(), buffer)
            buffer.seek(0)
            resumed = EMA(copy.deepcopy(net), EMAConfig(ema_decay=0.9, ema_update_freq=2))
            resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert all(torch.equal(resumed.params[name], value) for name, value in whole.params.items())
    assert torch.equal(whole.reverse(model(seed=1))[0].weight, whole.params["0.weight"])


def test_seed_model_and_precision(tmp_path):
    seed = {name: value + 1 if value.is_floating_point() else value for name, value in model().state_dict().items()}
    path = io.save({"model": {}, "extra_state": {"ema": seed}}, tmp_path / "seed.pt")
    average = EMA(model(), EMAConfig(ema_seed_model=path))
    assert torch.equal(average.params["0.weight"], seed["0.weight"])
    average.reset(model(seed=5))
    assert torch.equal(average.params["0.weight"], seed["0.weight"])  # the seed stays what it starts from
    assert EMA(model().bfloat16(), EMAConfig(ema_fp32=True)).params["0.weight"].dtype == torch.float32
    assert EMA(model().bfloat16(), EMAConfig()).params["0.weight"].dtype == torch.bfloat16


def test_mistakes_are_named():
    average = EMA(model(), EMAConfig())
    state = dict(average.state_dict())
    with pytest.raises(ValueError, match="missing: 0.bias; unexpected: other"):
        average.load_state_dict(
            {**{name: value for name, value in state.items() if name != "0.bias"}, "other": torch.zeros(1)}
        )
    with pytest.raises(ValueError, match=r"0.bias has shape \(3,\), the model's has \(2,\)"):
        average.load_state_dict({**state, "0.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="ema_decay is 1.5"):
        EMA(model(), EMAConfig(ema_decay=1.5))
    with pytest.raises(ValueError, match="ema_update_freq is 0"):
        EMA(model(), EMAConfig(ema_update_freq=0))
