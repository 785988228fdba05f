"""Sums of a criterion's logged values, kept on the device and fetched once per log interval."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq.device import Device
from fairseq.distributed import utils as distributed

Sums = dict[str, Any]  # by name: a number, or a list of them for a 1-dim tensor


class Fetched(NamedTuple):
    """The result of one read of the device."""

    logged: Sums  # the criterion's values, summed over all processes
    counted: dict[str, float]  # numbers counted on the host, summed over all processes
    extra: list[float]  # this process's further values


class Interval(NamedTuple):
    """The statistics of a log interval. After a stop within an interval, the resumed run adds to its first part."""

    logged: Sums
    counted: dict[str, float]
    norms: list[float]  # of the gradients, update by update

    def then(self, later: Interval) -> Interval:
        """Combine two parts of an interval."""
        return Interval(
            _added(self.logged, later.logged), _added(self.counted, later.counted), self.norms + later.norms
        )


def _added(one: Sums, other: Sums) -> Sums:
    """Add two dicts of sums; a missing name counts as zero."""
    both = {name: (one[name], other[name]) for name in one if name in other}
    sums = {
        name: [x + y for x, y in zip(a, b, strict=True)] if isinstance(a, list) else a + b
        for name, (a, b) in both.items()
    }
    return {**one, **other, **sums}


class Statistics:
    """Running sums of named 0-dim or 1-dim values over forward passes.

    One vector on the device holds the tensors; plain numbers stay on the host. Processes add up their sums at `fetch`,
    so an update needs no collective for them. A skipped update adds none of its tensors.
    """

    def __init__(self, device: Device) -> None:
        self.device = device.torch_device
        self.dtype = device.statistics_dtype
        self.names: list[str] = []
        self._sizes: list[int | None] = []  # of each name's value; None: 0-dim
        self._sums: Tensor | None = None
        self._update: Tensor | None = None
        self._numbers: dict[str, float] = {}

    def count(self, **numbers: float) -> None:
        """Add numbers that are on the host; they count even if the update is skipped."""
        for name, value in numbers.items():
            self._numbers[name] = self._numbers.get(name, 0.0) + value

    @torch.no_grad()
    def add(self, values: dict[str, Tensor]) -> None:
        """Add one forward pass's values to the current update; names and shapes must match the first call's."""
        if not self.names:
            self.names = list(values)
            self._sizes = [None if value.dim() == 0 else len(value) for value in values.values()]
            length = sum(1 if size is None else size for size in self._sizes)
            # hpu: copied to the device, not created there, so that the first pass has the same graph as all later ones
            self._sums = torch.zeros(length, dtype=self.dtype).to(self.device)
            self._update = torch.zeros(length, dtype=self.dtype).to(self.device)
        assert self._update is not None and list(values) == self.names, (
            f"the criterion's logged values changed from {self.names} to {list(values)}"
        )
        self._update += torch.cat([value.detach().to(self.dtype).reshape(-1) for value in values.values()])

    @torch.no_grad()
    def commit(self, found_inf: Tensor | None = None) -> None:
        """End the update: its values count, unless `found_inf` (0-dim) is 1 or one of them is not finite."""
        if self._update is None or self._sums is None:
            return
        bad = ~torch.isfinite(self._update).all()
        if found_inf is not None:
            bad = bad | (found_inf > 0)
        self._sums += torch.where(bad, torch.zeros_like(self._update), self._update)
        self._update.zero_()

    def discard(self) -> None:
        """Drop the values of the current update."""
        if self._update is not None:
            self._update.zero_()

    def fetch(self, extra: list[Tensor] | None = None, is_last: bool = False) -> Fetched:
        """Fetch the sums over all processes since the last fetch, in one read of the device.

        Args:
            extra: further values of this process to read with them.
            is_last: nothing is added afterwards, so the sums are not reset.
        """
        extra = extra or []
        numbers = sorted(self._numbers)
        # on the host: devices may count in float32, which is exact to 2^24; HCCL always does
        counted = distributed.sum_on_host([self._numbers[name] for name in numbers]) if numbers else []
        sums = (
            torch.zeros(0, dtype=self.dtype, device=self.device)
            if self._sums is None
            else distributed.all_reduce(self._sums.clone())
        )
        more = torch.cat([value.to(self.dtype).flatten() for value in extra]) if extra else sums[:0]
        values = torch.cat([sums, more]).tolist()
        if self._sums is not None and not is_last:  # hpu: a leftover operation would join the next graph
            self._sums.zero_()
        self._numbers = dict.fromkeys(self._numbers, 0.0)
        logged = 0 if self._sums is None else len(self._sums)
        return Fetched(self._by_name(values[:logged]), dict(zip(numbers, counted, strict=True)), values[logged:])

    def _by_name(self, values: list[float]) -> Sums:
        named: Sums = {}
        begin = 0
        for name, size in zip(self.names, self._sizes, strict=True):
            named[name] = values[begin] if size is None else values[begin : begin + size]
            begin += 1 if size is None else size
        return named
