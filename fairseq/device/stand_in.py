"""A device whose tensors live on the CPU and that answers as an HPU does: for looking at the HPU's branches where there is no card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.device.base import Note
from fairseq.device.hpu import HpuDevice

KERNELS = "fairseq_stand_in"  # namespace of operators that stand for kernels of the vendor's


class StandIn(HpuDevice):
    """Takes the branches marked `# hpu:` and the HPU's forms, on CPU tensors; nothing of the vendor's is imported.

    Args:
        lives_on: where its tensors are: `cpu:0` makes copies to it visible to a dispatch mode.
        on_mark_step: called where the recorded operators would be handed to the card.
    """

    type = "cpu"
    records_graphs = True  # gradients are zeroed in place, as in lazy mode

    def __init__(self, index: int = 0, lives_on: str = "cpu", on_mark_step: Callable[[], None] | None = None) -> None:
        super().__init__(index)
        self._tensors_live_on = lives_on
        self._on_mark_step = on_mark_step

    def claim(self) -> None:
        """The CPU is nobody's."""

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
        return _Ctc

    def report(self) -> list[Note]:
        return []

    def describe(self) -> str:
        return "the CPU in an HPU's place"


@torch.library.custom_op(f"{KERNELS}::ctc_loss", mutates_args=())
def _ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int, reduction: str, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    """Loss and gradient, as one operator that takes lengths as tensors, like the vendor's kernel (release 1.15 and later)."""
    log_probs = log_probs.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.ctc_loss(log_probs, targets, input_lengths.long(), target_lengths.long(), blank, reduction, zero_infinity)
    (grad,) = torch.autograd.grad(loss, log_probs)
    return loss.detach(), grad


class _Ctc(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, *rest: Any) -> Tensor:
        loss, grad = _ctc_loss(log_probs, *rest)
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_of_loss: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (grad * grad_of_loss, *[None] * 6)
