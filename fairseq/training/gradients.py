"""From accumulated gradients to an update: norm, clipping, and the guard against gradients that are not finite. All
on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq import utils


class Prepared(NamedTuple):
    """What the optimizer needs to take its step; 0-dim tensors on the device."""

    norm: Tensor  # L2 norm of the normalised gradient, before clipping
    # the optimizer divides gradients by this: loss scale, sample size, clipping; None: they are as they should be
    divide_by: Tensor | None
    found_inf: Tensor  # 1.0 where the gradient is not finite and the update must not happen


@torch.no_grad()
def prepare(
    params: Sequence[Tensor],
    sample_size: Callable[[], Tensor],
    loss_scale: Tensor | None,
    world_size: int,
    clip_norm: float,
    fused_clip: Callable[[], Tensor] | None = None,
    norm_of: Callable[[Sequence[Tensor]], Tensor] = utils.total_norm,
) -> Prepared:
    """Norm of the mean gradient and the one factor by which the optimizer divides the accumulated one.

    Args:
        params: parameters whose `.grad` holds the sum over this update's micro-batches (averaged over `world_size`
            processes, as every `Strategy` leaves it), times the loss scale.
        sample_size: gives the masked frames of the update over all processes, 0-dim; called once what does not need
            them is on its way.
        clip_norm: largest norm of the mean gradient; 0 for no clipping.
        fused_clip: a device's own kernel (`Device.fused_clip_norm`) to clip with; the gradients are then divided here
            and now.
        norm_of: the norm over all gradients of the model, of which this process may hold parts
            (`Strategy.gradient_norm`).
    """
    grads = [p.grad for p in params if p.grad is not None]
    if fused_clip is not None:
        divisor = _divisor(sample_size(), loss_scale, world_size)
        torch._foreach_div_(grads, divisor)  # pyright: ignore[reportPrivateImportUsage]
        norm = fused_clip()
        return Prepared(norm, None, (~torch.isfinite(norm)).float())
    norm_of_sum = norm_of(grads)  # before the wait for the sample size
    divisor = _divisor(sample_size(), loss_scale, world_size)
    norm = norm_of_sum / divisor
    found_inf = (~torch.isfinite(norm)).float()
    if clip_norm > 0:
        factor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        divisor = divisor / torch.where(found_inf > 0, torch.ones_like(factor), factor)
    return Prepared(norm, divisor, found_inf)


def _divisor(sample_size: Tensor, loss_scale: Tensor | None, world_size: int) -> Tensor:
    """What the accumulated gradients must be divided by for the mean gradient, 0-dim."""
    divisor = sample_size.clamp(min=1.0).float() / world_size
    return divisor if loss_scale is None else divisor * loss_scale


def zero_in_place(params: Sequence[Tensor], frozen: Set[Tensor]) -> None:
    """Gradients of zero in the memory that they have, or in new memory: every micro-batch then adds to them, in one and
    the same graph.

    Args:
        frozen: those of `params` that get none.
    """
    for param in params:
        if param in frozen:
            continue
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        else:
            param.grad.zero_()


def complete(params: Sequence[Tensor], frozen: Set[Tensor]) -> None:
    """After the backward passes: a gradient for each parameter that is trained, and none for the frozen ones.

    A block that layerdrop left out of every micro-batch has none yet. Zeros let Adam's momentum go on, as where several
    processes train. Frozen parameters may have zeros, which were there for other processes' sake: with them weight
    decay would shrink the weights, and Adam count updates that are none.
    """
    for param in params:
        if param in frozen:
            param.grad = None
        elif param.grad is None:
            param.grad = torch.zeros_like(param)


class UpdateLog:
    """Gradient norms of the updates since the last fetch, and the count of skipped updates in a row, kept on the
    device.

    An update was skipped if its norm is not finite. The utterances of each update are remembered until the fetch, so
    that a skipped one can be named. Norms move through a vector of one size, so that a device that compiles graphs sees
    the same ones whatever the interval.

    Args:
        limit: the run stops after this many skipped updates in a row; 0 never stops it.
        room: updates that are expected between two fetches (more are no error).
    """

    def __init__(self, device: torch.device, limit: int, room: int) -> None:
        self.limit = limit
        self.room = room
        self.in_a_row = torch.zeros((), device=device)
        self.longest = torch.zeros((), device=device)
        self._norms = torch.zeros(room, device=device)  # the latest comes last
        self._full: list[Tensor] = []  # such vectors of earlier updates, where more than `room` are pending
        self._batches: list[tuple[int, list[Tensor]]] = []

    @torch.no_grad()
    def record(self, prepared: Prepared, update: int, ids: list[Tensor]) -> None:
        """Note one update; `ids` are the host's dataset indices of its utterances."""
        self.in_a_row.add_(1).mul_(prepared.found_inf)
        self.longest.copy_(torch.maximum(self.longest, self.in_a_row))
        if self._batches and len(self._batches) % self.room == 0:
            self._full.append(self._norms)
        self._norms = torch.cat([self._norms[1:], prepared.norm.float().view(1)])
        self._batches.append((update, ids))

    def pending(self) -> list[Tensor]:
        """Device values for the next fetch: the longest run of skipped updates, and vectors of norms."""
        return [self.longest, *self._full, self._norms]

    def settle(self, values: list[float]) -> Settled:
        """Take the fetched values of `pending`, in one list."""
        longest, earlier = values[0], self.room * len(self._full)
        latest = len(self._batches) - earlier
        norms = values[1 : 1 + earlier] + values[len(values) - latest :]
        skipped = [
            (update, sorted({int(i) for batch in ids for i in batch}))
            for norm, (update, ids) in zip(norms, self._batches, strict=True)
            if not math.isfinite(norm)
        ]
        self._full.clear()
        self._batches.clear()
        self.longest.copy_(self.in_a_row)
        stop = bool(self.limit) and longest >= self.limit
        return Settled([norm for norm in norms if math.isfinite(norm)], skipped, int(longest) if stop else 0)


class Settled(NamedTuple):
    """What a fetch told about the updates before it."""

    norms: list[float]  # of the updates that were taken
    skipped: list[tuple[int, list[int]]]  # (update, dataset indices of its utterances)
    too_many_in_a_row: int  # the longest run of skipped updates if it reached the limit, else 0
