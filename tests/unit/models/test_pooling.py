"""Pooling over frames: padding has no effect, and each kind is what its name says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq.models.wav2vec.pooling import POOLINGS, AttentivePooling, MeanPooling, StatisticsPooling


def make(kind: str) -> nn.Module:
    torch.manual_seed(1)
    layer = POOLINGS[kind](6, 4, 3, nn.GELU())
    if isinstance(layer, AttentivePooling):
        nn.init.normal_(layer.attention_score.weight)
    return layer


@pytest.mark.parametrize("kind", POOLINGS)
def test_padding_has_no_effect(kind: str) -> None:
    """Neither on logits nor on gradients, whatever is in the padding."""
    layer, frames = make(kind), torch.randn(9, 2, 6)
    lengths = [5, 9]
    mask = torch.arange(9) >= torch.tensor(lengths).unsqueeze(1)
    padded = frames.masked_fill(mask.t().unsqueeze(-1), float("inf")).requires_grad_()
    together = layer(padded, mask)
    together.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    alone = [layer(frames[:length, row : row + 1], None) for row, length in enumerate(lengths)]
    torch.cat(alone).square().sum().backward()
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    for name, parameter in layer.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
    assert torch.isfinite(padded.grad).all() and not padded.grad[5:, 0].any()


def test_kinds_are_what_they_are_called() -> None:
    frames = torch.randn(7, 2, 6)
    mean, both = make("mean"), make("statistics")
    assert isinstance(mean, MeanPooling) and isinstance(both, StatisticsPooling)
    assert torch.allclose(mean.pooled(frames, None), frames.mean(dim=0), atol=1e-6)
    deviation = (frames.var(dim=0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(both.pooled(frames, None), torch.cat([frames.mean(0), deviation], dim=-1), atol=1e-6)
    # attention starts from the mean
    attentive = POOLINGS["attentive"](6, 4, 3, nn.GELU())
    assert torch.allclose(attentive.pooled(frames, None), frames.mean(dim=0), atol=1e-6)
    # fairseq averages after the linear layer, and has these names
    after = mean.projection(mean.activation(mean.linear(frames).mean(dim=0)))
    assert torch.allclose(mean(frames, None), after, atol=1e-6)
    assert list(mean.state_dict()) == ["linear.weight", "linear.bias", "projection.weight", "projection.bias"]


def test_a_channel_that_never_changes_has_finite_gradients() -> None:
    frames = torch.zeros(5, 1, 6, requires_grad=True)
    make("statistics")(frames, None).sum().backward()
    assert torch.isfinite(frames.grad).all()
