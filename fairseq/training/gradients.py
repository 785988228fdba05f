"""Turn accumulated gradients into an update: norm, clipping and the check for NaN and inf, all on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq import utils


class Prepared(NamedTuple):
    """The optimizer's inputs for a step; 0-dim tensors on the device."""

    norm: Tensor  # L2 norm of the normalised gradient, before clipping
    # the optimizer divides gradients by this: loss scale, sample size, clipping; None: they are already divided
    divide_by: Tensor | None
    found_inf: Tensor  # 1.0 if the gradient is not finite and the update must be skipped


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
    """Compute the norm of the mean gradient, and the number by which the optimizer divides the accumulated gradient.

    Args:
        params: parameters whose `.grad` holds the sum over this update's micro-batches (averaged over `world_size`
            processes, as every `Strategy` leaves it), times the loss scale.
        sample_size: returns the masked frames of the update over all processes, 0-dim; called as late as possible.
        loss_scale: fp16's loss scale, 0-dim; None: no scale.
        world_size: number of processes.
        clip_norm: largest norm of the mean gradient; 0: no clipping.
        fused_clip: a device's own clipping kernel (`Device.fused_clip_norm`); gradients are then divided here.
        norm_of: computes the norm over all gradients of the model, of which this process may hold shards
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
    """Compute the number by which to divide the accumulated gradients for the mean gradient, 0-dim."""
    divisor = sample_size.clamp(min=1.0).float() / world_size
    return divisor if loss_scale is None else divisor * loss_scale


def zero_in_place(params: Sequence[Tensor], frozen: Set[Tensor]) -> None:
    """Set gradients to zero, in their existing memory if any, so that every micro-batch adds to them in the same graph.

    Args:
        frozen: parameters among `params` that get no gradient.
    """
    for param in params:
        if param in frozen:
            continue
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        else:
            param.grad.zero_()


def complete(params: Sequence[Tensor], frozen: Set[Tensor]) -> None:
    """Give every trained parameter a gradient after the backward passes, and remove those of frozen ones.

    A block that layerdrop skipped in every micro-batch has no gradient; with zeros, Adam's momentum decays as it does
    with several processes. Frozen parameters may have zeros from the gradient exchange; with them, weight decay would
    shrink the weights, and Adam would count the update.
    """
    for param in params:
        if param in frozen:
            param.grad = None
        elif param.grad is None:
            param.grad = torch.zeros_like(param)


class UpdateLog:
    """Gradient norms since the last fetch, and the count of skipped updates in a row, kept on the device.

    An update is skipped if its norm is not finite. The utterances of each update are kept until the fetch, to name
    those of a skipped one. Norms are in a vector of constant size, so a device that compiles graphs sees the same
    graph for every log interval.

    Args:
        limit: the run stops after this many skipped updates in a row; 0: never.
        room: expected updates between two fetches (more are allowed).
    """

    def __init__(self, device: torch.device, limit: int, room: int) -> None:
        self.limit = limit
        self.room = room
        self.in_a_row = torch.zeros((), device=device)
        self.longest = torch.zeros((), device=device)
        self._norms = torch.zeros(room, device=device)  # the latest is last
        self._full: list[Tensor] = []  # vectors of earlier updates, if more than `room` are pending
        self._batches: list[tuple[int, list[Tensor]]] = []

    @torch.no_grad()
    def record(self, prepared: Prepared, update: int, ids: list[Tensor]) -> None:
        """Record one update; `ids` are the dataset indices of its utterances, on the host."""
        self.in_a_row.add_(1).mul_(prepared.found_inf)
        self.longest.copy_(torch.maximum(self.longest, self.in_a_row))
        if self._batches and len(self._batches) % self.room == 0:
            self._full.append(self._norms)
        self._norms = torch.cat([self._norms[1:], prepared.norm.float().view(1)])
        self._batches.append((update, ids))

    def pending(self) -> list[Tensor]:
        """Return device values for the next fetch: the longest run of skipped updates, and vectors of norms."""
        return [self.longest, *self._full, self._norms]

    def settle(self, values: list[float]) -> Settled:
        """Evaluate the fetched values of `pending`, given as one list."""
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
    """The result of a fetch, for the updates before it."""

    norms: list[float]  # of the updates that were not skipped
    skipped: list[tuple[int, list[int]]]  # (update, dataset indices of its utterances)
    too_many_in_a_row: int  # the longest run of skipped updates if it reached the limit, else 0
