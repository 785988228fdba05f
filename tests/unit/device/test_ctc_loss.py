"""The CTC loss that the device layer gives: rows of filler count nothing, and the way over the host gives the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.device import Device


class OnHost(Device):
    """A device without a kernel of its own."""

    ctc_on_host = True


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three rows of 12, 9 and 2 frames over 5 symbols; the last one's label does not fit."""
    logits = torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1, 2, 2], [3, 4, 0], [1, 1, 0]])
    return logits, targets, torch.tensor([12, 9, 2]), torch.tensor([3, 2, 2])


def loss_and_gradient(device: Device, weights: list[float]) -> tuple[float, Tensor]:
    logits, targets, frames, units = inputs()
    logits.requires_grad_()
    arguments = (logits.log_softmax(-1), targets, frames, units, torch.tensor(weights))
    loss, _ = device.ctc_loss(*arguments, 0, zero_infinity=True)
    loss.backward()
    return loss.item(), logits.grad


@pytest.mark.parametrize("device", [Device(), OnHost()], ids=["here", "on the host"])
def test_filler_has_no_loss_and_no_gradient(device: Device) -> None:
    logits, targets, frames, units = inputs()
    losses = F.ctc_loss(logits.log_softmax(-1), targets, frames, units, reduction="none", zero_infinity=True)
    assert losses[2] == 0 and (losses[:2] > 0).all()
    whole, gradient = loss_and_gradient(device, [1.0, 1.0, 1.0])
    assert whole == pytest.approx(losses.sum().item()) and not gradient[:, 2].any() and torch.isfinite(gradient).all()
    part, of_part = loss_and_gradient(device, [1.0, 0.0, 0.0])
    assert part == pytest.approx(losses[0].item())
    assert torch.equal(of_part[:, 0], gradient[:, 0]) and not of_part[:, 1:].any()
    assert loss_and_gradient(device, [0.0, 0.0, 0.0])[0] == 0


def test_a_label_that_does_not_fit_is_infinite_unless_asked() -> None:
    logits, targets, frames, units = inputs()
    loss, _ = Device().ctc_loss(logits.log_softmax(-1), targets, frames, units, torch.ones(3), 0, zero_infinity=False)
    assert torch.isinf(loss)
    loss, _ = Device().ctc_loss(
        logits.log_softmax(-1), targets, frames, units, torch.tensor([1.0, 1.0, 0.0]), 0, zero_infinity=False
    )
    assert torch.isfinite(loss)
