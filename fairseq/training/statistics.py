"""Sums of what a criterion logs, kept on the device and fetched once per log interval."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq.device import Device
from fairseq.distributed import utils as distributed

Sums = dict[str, Any]  # by name: a number, or a list of them for a 1-dim tensor


class Fetched(NamedTuple):
    """What one read of the device brought."""

    logged: Sums  # what the criterion logged, over all processes
    counted: dict[str, float]  # sums of the numbers that the host counted, over all processes
    extra: list[float]  # this process's further values


class Interval(NamedTuple):
    """What a log interval's updates brought. An interval that a stop cuts in two goes on with its first part after
    it.
    """

    logged: Sums
    counted: dict[str, float]
    norms: list[float]  # of the gradients, update by update

    def then(self, later: Interval) -> Interval:
        """Both parts as one."""
        return Interval(
            _added(self.logged, later.logged), _added(self.counted, later.counted), self.norms + later.norms
        )


def _added(one: Sums, other: Sums) -> Sums:
    """Sums of two dicts; a name that one of them lacks counts nothing there."""
    both = {name: (one[name], other[name]) for name in one if name in other}
    sums = {
        name: [x + y for x, y in zip(a, b, strict=True)] if isinstance(a, list) else a + b
        for name, (a, b) in both.items()
    }
    return {**one, **other, **sums}


class Statistics:
    """Running sums of named 0-dim or 1-dim values over forward passes.

    One vector on the device holds the tensors among them; plain numbers stay on the host. Processes add up theirs at
    `fetch`, so that an update needs no collective of its own. An update that was skipped adds none of its tensors.
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
        """Add numbers that the host knows; they count at once."""
        for name, value in numbers.items():
            self._numbers[name] = self._numbers.get(name, 0.0) + value

    @torch.no_grad()
    def add(self, values: dict[str, Tensor]) -> None:
        """Add one forward pass's values to the update under way; names and shapes must be those of the first call."""
        if not self.names:
            self.names = list(values)
            self._sizes = [None if value.dim() == 0 else len(value) for value in values.values()]
            length = sum(1 if size is None else size for size in self._sizes)
            # sent rather than made there: where operations are recorded, this pass is then the graph of all the later
            # ones
            self._sums = torch.zeros(length, dtype=self.dtype).to(self.device)
            self._update = torch.zeros(length, dtype=self.dtype).to(self.device)
        assert self._update is not None and list(values) == self.names, (
            f"a criterion changed what it logs: {list(values)}, before: {self.names}"
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
        """Forget the update under way."""
        if self._update is not None:
            self._update.zero_()

    def fetch(self, extra: list[Tensor] | None = None, is_last: bool = False) -> Fetched:
        """The sums over all processes since the last fetch, and this process's `extra` values, in one read of the
        device.

        Args:
            is_last: nothing is added afterwards, so the sums stay as they are.
        """
        extra = extra or []
        numbers = sorted(self._numbers)
        # over the host: a device may count in float32, exact to 2^24, and so does HCCL whatever it is given
        counted = distributed.sum_on_host([self._numbers[name] for name in numbers]) if numbers else []
        sums = (
            torch.zeros(0, dtype=self.dtype, device=self.device)
            if self._sums is None
            else distributed.all_reduce(self._sums.clone())
        )
        more = torch.cat([value.to(self.dtype).flatten() for value in extra]) if extra else sums[:0]
        values = torch.cat([sums, more]).tolist()
        if self._sums is not None and not is_last:  # hpu: an operation that is left over would join the next graph
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
