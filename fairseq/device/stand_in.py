"""A device that acts as an HPU with tensors on the CPU, to run the HPU's branches without a card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairseq.device.base import Note
from fairseq.device.hpu import HpuDevice

KERNELS = "fairseq_stand_in"  # namespace of operators that replace the vendor's kernels


class StandIn(HpuDevice):
    """Take the branches marked `# hpu:` and the HPU's forms on CPU tensors, without the vendor's package.

    Args:
        lives_on: device of its tensors: `cpu:0` makes copies to it visible to a dispatch mode.
        on_mark_step: called where the recorded operators would run on the card.
    """

    type = "cpu"
    # no card: nothing is compiled, and rules for runs on cards do not apply
    compiles = False
    world_size_is_strict = False
    compares_with_recipe = False

    @property
    def records_graphs(self) -> bool:
        return True  # gradients are zeroed in place, as in lazy mode

    def __init__(self, index: int = 0, lives_on: str = "cpu", on_mark_step: Callable[[], None] | None = None) -> None:
        super().__init__(index)
        self._tensors_live_on = lives_on
        self._on_mark_step = on_mark_step

    def claim(self) -> None:
        """Do nothing: the CPU need not be claimed."""

    def missing(self) -> str | None:
        return None

    def count(self) -> int:
        return 1

    def mark_step(self) -> None:
        if self._on_mark_step is not None:
            self._on_mark_step()

    def memory_statistics(self) -> dict[str, float]:
        return {}

    def counters(self) -> dict[str, float]:
        return {}

    def _ctc_kernel(self) -> Any:
        return Ctc

    def report(self) -> list[Note]:
        return []

    def describe(self) -> str:
        return "CPU as a stand-in for an HPU"


@torch.library.custom_op(f"{KERNELS}::ctc_loss", mutates_args=())
def _ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss and its gradient."""
    known = (input_lengths.tolist(), target_lengths.tolist(), blank)
    losses, log_alpha = torch._ctc_loss(log_probs, targets.long(), *known, zero_infinity)
    ones, lengths = torch.ones_like(losses), known[:2]
    backward = torch.ops.aten._ctc_loss_backward
    grad = backward(ones, log_probs, targets.long(), *lengths, losses, log_alpha, blank, zero_infinity)
    return (torch.where(losses.isinf(), 0, losses) if zero_infinity else losses).sum(), grad


class Ctc(torch.autograd.Function):
    """torch's CTC, summed, as one operator that takes lengths as tensors, like the vendor's kernel from 1.15 on."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        input_lengths, target_lengths, blank, reduction, zero_infinity = rest
        assert reduction == "sum"
        loss, grad = _ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (grad_of_loss,) = ctx.saved_tensors, grad_outputs
        return (grad * grad_of_loss, *[None] * 6)
