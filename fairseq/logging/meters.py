"""Meters: accumulators for a run's metrics. Their states are plain numbers, so checkpoints can hold them."""

from __future__ import annotations

import bisect
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Optional, Union

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Value = Union[int, float, Tensor]


def type_as(a: Any, b: Any) -> Any:
    """Return `a` with the device and dtype of `b` if both are tensors, else `a`."""
    return a.to(b) if torch.is_tensor(a) and torch.is_tensor(b) else a


def safe_round(number: Any, ndigits: int) -> Any:
    """Round a number, a one-element tensor or a numpy scalar; return anything else unchanged."""
    plain = to_plain(number)
    return round(plain, ndigits) if hasattr(plain, "__round__") else plain


def to_plain(value: Any) -> Any:
    """Convert a one-element tensor or numpy scalar to a Python number; torch's weights_only refuses numpy scalars."""
    if torch.is_tensor(value):
        return value.item() if value.numel() == 1 else value.detach().cpu()
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


class Meter:
    """Base class: `update` accumulates, `smoothed_value` is what a log line shows, `reset` starts over."""

    round: Optional[int] = None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def reset(self) -> None:
        raise NotImplementedError

    @property
    def smoothed_value(self) -> Any:
        """The value to show, rounded to `round` digits if that is set."""
        raise NotImplementedError

    def _rounded(self, value: Any) -> Any:
        return value if self.round is None or value is None else safe_round(value, self.round)


class AverageMeter(Meter):
    """Weighted mean of the logged values; a weight of 0 only replaces the latest value."""

    def __init__(self, round: Optional[int] = None) -> None:
        self.round = round
        self.reset()

    def reset(self) -> None:
        self.val: Any = None
        self.sum: Any = 0
        self.count: Any = 0

    def update(self, val: Optional[Value], n: Value = 1) -> None:
        if val is None:
            return
        self.val = val
        if n > 0:
            self.sum = type_as(self.sum, val) + val * n
            self.count = type_as(self.count, n) + n

    def state_dict(self) -> dict[str, Any]:
        return {
            "val": to_plain(self.val),
            "sum": to_plain(self.sum),
            "count": to_plain(self.count),
            "round": self.round,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.val, self.sum, self.count = state_dict["val"], state_dict["sum"], state_dict["count"]
        self.round = state_dict.get("round")

    @property
    def avg(self) -> Any:
        return self.sum / self.count if self.count > 0 else self.val

    @property
    def smoothed_value(self) -> Any:
        return self._rounded(self.avg)


class SumMeter(Meter):
    """Sum of the logged values: numbers, or vectors of one length, whose state is a list."""

    def __init__(self, round: Optional[int] = None) -> None:
        self.round = round
        self.reset()

    def reset(self) -> None:
        self.sum: Any = 0

    def update(self, val: Optional[Value]) -> None:
        if val is not None:
            self.sum = type_as(self.sum, val) + val

    def state_dict(self) -> dict[str, Any]:
        plain = to_plain(self.sum)
        return {"sum": plain.tolist() if torch.is_tensor(plain) else plain, "round": self.round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["sum"]
        self.sum = torch.tensor(saved) if isinstance(saved, list) else saved
        self.round = state_dict.get("round")

    @property
    def smoothed_value(self) -> Any:
        return self._rounded(self.sum)


class ConcatTensorMeter(Meter):
    """Concatenation of tensors along one dimension, for metrics that need every value, such as an AUC."""

    def __init__(self, dim: int = 0) -> None:
        self.dim = dim
        self.reset()

    def reset(self) -> None:
        self.tensor: Optional[Tensor] = None

    def update(self, val: Tensor) -> None:
        self.tensor = val if self.tensor is None else torch.cat([self.tensor, val], dim=self.dim)

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tensor = state_dict["tensor"]

    @property
    def smoothed_value(self) -> Any:
        return []  # not a single number; derived meters read `tensor`


class TimeMeter(Meter):
    """Events per second since the last reset; `init` is the seconds before a resume."""

    def __init__(self, init: float = 0, n: Value = 0, round: Optional[int] = None) -> None:
        self.round = round
        self.reset(init, n)

    def reset(self, init: float = 0, n: Value = 0) -> None:
        self.init = init
        self.start = time.perf_counter()
        self.n: Any = n
        self.i = 0

    def update(self, val: Value = 1) -> None:
        self.n = type_as(self.n, val) + val
        self.i += 1

    def state_dict(self) -> dict[str, Any]:
        return {"init": self.elapsed_time, "n": to_plain(self.n), "round": self.round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # fairseq: the oldest states hold `start`, a time of another machine's clock, and an unusable count
        self.reset(init=state_dict["init"], n=0 if "start" in state_dict else state_dict["n"])
        self.round = state_dict.get("round")

    @property
    def elapsed_time(self) -> float:
        return self.init + (time.perf_counter() - self.start)

    @property
    def avg(self) -> Any:
        return self.n / self.elapsed_time

    @property
    def smoothed_value(self) -> Any:
        return self._rounded(self.avg)


class StopwatchMeter(Meter):
    """Seconds between `start` and `stop`, summed; `avg` is per counted stop."""

    def __init__(self, round: Optional[int] = None) -> None:
        self.round = round
        self.sum: float = 0
        self.n: Any = 0
        self.start_time: Optional[float] = None

    def start(self) -> None:
        self.start_time = time.perf_counter()

    def stop(self, n: Value = 1, prehook: Optional[Callable[[], None]] = None) -> None:
        if self.start_time is None:
            return
        if prehook is not None:
            prehook()
        self.sum += time.perf_counter() - self.start_time
        self.n = type_as(self.n, n) + n

    def reset(self) -> None:
        self.sum = 0
        self.n = 0
        self.start()

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "n": to_plain(self.n), "round": self.round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sum, self.n = state_dict["sum"], state_dict["n"]
        self.start_time = None
        self.round = state_dict.get("round")

    @property
    def avg(self) -> Any:
        return self.sum / self.n if self.n > 0 else self.sum

    @property
    def elapsed_time(self) -> float:
        return 0.0 if self.start_time is None else time.perf_counter() - self.start_time

    @property
    def smoothed_value(self) -> Any:
        return self._rounded(self.avg if self.sum > 0 else self.elapsed_time)


class MetersDict(OrderedDict):
    """Meters by name, in the order of their priorities (smaller first)."""

    class _DerivedMeter(Meter):
        """A value computed from the other meters when it is read."""

        def __init__(self, fn: Callable[[MetersDict], Any]) -> None:
            self.fn = fn

        def reset(self) -> None:
            pass

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.priorities: list[tuple[int, int, str]] = []

    def __setitem__(self, key: str, value: tuple[int, Meter]) -> None:
        assert key not in self, f"the meter {key} already exists; use update()"
        priority, meter = value
        bisect.insort(self.priorities, (priority, len(self.priorities), key))
        super().__setitem__(key, meter)
        for _, _, name in self.priorities:
            self.move_to_end(name)

    def add_meter(self, key: str, meter: Meter, priority: int) -> None:
        self[key] = (priority, meter)

    def state_dict(self) -> list[tuple[int, str, str, dict[str, Any]]]:
        """Return (priority, name, class name, state) per meter, without derived meters, which hold a function."""
        entries = [(priority, key, self[key]) for priority, _, key in self.priorities]
        return [
            (p, key, type(m).__name__, m.state_dict()) for p, key, m in entries if not isinstance(m, self._DerivedMeter)
        ]

    def load_state_dict(self, state_dict: list[tuple[int, str, str, dict[str, Any]]]) -> None:
        self.clear()
        self.priorities.clear()
        for priority, key, class_name, state in state_dict:
            if class_name not in _METER_CLASSES:
                logger.warning(f"the checkpoint's metric {key} has an unknown meter class {class_name}; it starts over")
                continue
            meter = _METER_CLASSES[class_name]()
            meter.load_state_dict(state)
            self.add_meter(key, meter, priority)

    def get_smoothed_value(self, key: str) -> Any:
        meter = self[key]
        return meter.fn(self) if isinstance(meter, self._DerivedMeter) else meter.smoothed_value

    def get_smoothed_values(self) -> dict[str, Any]:
        """Return name -> value to show, without names that start with an underscore (inputs of derived meters)."""
        return OrderedDict((key, self.get_smoothed_value(key)) for key in self if not key.startswith("_"))

    def reset(self) -> None:
        for meter in self.values():
            meter.reset()


_METER_CLASSES: dict[str, type[Meter]] = {
    cls.__name__: cls for cls in (AverageMeter, SumMeter, ConcatTensorMeter, TimeMeter, StopwatchMeter)
}
