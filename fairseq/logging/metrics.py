"""Log numbers from anywhere; all open `aggregate` scopes collect them.

with metrics.aggregate("train"):
    for step, batch in enumerate(batches):
        with metrics.aggregate("train_inner") as inner:
            metrics.log_scalar("loss", loss, weight=sample_size, round=3)
        if step % log_interval == 0:
            show(inner.get_smoothed_values())
            metrics.reset_meters("train_inner")
whole_epoch = metrics.get_smoothed_values("train")
"""

from __future__ import annotations

import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Optional

from torch import Tensor

from fairseq.logging.meters import (
    AverageMeter,
    ConcatTensorMeter,
    Meter,
    MetersDict,
    StopwatchMeter,
    SumMeter,
    TimeMeter,
)

_aggregators: OrderedDict[str, MetersDict] = OrderedDict()  # every named scope, with its meters
_active: OrderedDict[str, MetersDict] = OrderedDict()  # the open scopes, outermost first
_depth: dict[str, int] = {}  # how often a scope of this name is open


def reset() -> None:
    """Drop every scope and every value; only "default", which collects everything, stays open."""
    _aggregators.clear()
    _active.clear()
    _depth.clear()
    _aggregators["default"] = _active["default"] = MetersDict()
    _depth["default"] = 1


reset()


@contextlib.contextmanager
def aggregate(name: Optional[str] = None, new_root: bool = False) -> Iterator[MetersDict]:
    """Collect what is logged inside this scope.

    Args:
        name: opening the same name again continues its meters; without a name, the values are dropped at the scope's
            end.
        new_root: do not log to the surrounding scopes (including "default"), as validation needs.
    Raises:
        ValueError: the name is "default".
    """
    if name == "default":
        raise ValueError("The scope 'default' is always open. Use another name.")
    if name is None:
        name, collected = str(uuid.uuid4()), MetersDict()
    else:
        collected = _aggregators.setdefault(name, MetersDict())
    outer, outer_depth = OrderedDict(_active), dict(_depth)
    if new_root:
        _active.clear()
        _depth.clear()
    _active[name] = collected
    _depth[name] = _depth.get(name, 0) + 1
    try:
        yield collected
    finally:  # also after an exception: a caught out-of-memory error continues with the next batch
        if new_root:
            _active.clear()
            _active.update(outer)
            _depth.clear()
            _depth.update(outer_depth)
        else:
            _close(name)


def _close(name: str) -> None:
    if name not in _depth:  # reset() was called inside
        return
    _depth[name] -= 1
    if _depth[name] == 0:
        del _depth[name]
        _active.pop(name, None)


def get_active_aggregators() -> list[MetersDict]:
    return list(_active.values())


def _meter(collected: MetersDict, key: str, make: Callable[[], Meter], priority: int) -> Any:
    if key not in collected:
        collected.add_meter(key, make(), priority)
    return collected[key]


def log_scalar(key: str, value: Any, weight: Any = 1, priority: int = 10, round: Optional[int] = None) -> None:
    """Log a value into a weighted mean.

    Args:
        weight: 0: show the latest value instead of the mean.
        priority: position in the log line, smaller first.
        round: number of digits shown.
    """
    for collected in get_active_aggregators():
        _meter(collected, key, lambda: AverageMeter(round=round), priority).update(value, weight)


def log_scalar_sum(key: str, value: Any, priority: int = 10, round: Optional[int] = None) -> None:
    """Log a value into a sum."""
    for collected in get_active_aggregators():
        _meter(collected, key, lambda: SumMeter(round=round), priority).update(value)


def log_concat_tensor(key: str, value: Tensor, priority: int = 10, dim: int = 0) -> None:
    """Log a tensor into a concatenation, for derived values that need all of it."""
    for collected in get_active_aggregators():
        _meter(collected, key, lambda: ConcatTensorMeter(dim=dim), priority).update(value)


def log_derived(key: str, fn: Callable[[MetersDict], Any], priority: int = 20) -> None:
    """Log `fn(meters)`, computed from the other meters when it is read."""
    for collected in get_active_aggregators():
        _meter(collected, key, lambda: MetersDict._DerivedMeter(fn), priority)


def log_speed(key: str, value: Any, priority: int = 30, round: Optional[int] = None) -> None:
    """Log a count that is shown per second.

    The first call only starts the clock, so start-up time is not included.
    """
    for collected in get_active_aggregators():
        if key not in collected:
            collected.add_meter(key, TimeMeter(round=round), priority)
            collected[key].reset()
        else:
            collected[key].update(value)


def log_start_time(key: str, priority: int = 40, round: Optional[int] = None) -> None:
    """Start a stopwatch; `log_stop_time` with the same key stops it."""
    for collected in get_active_aggregators():
        _meter(collected, key, lambda: StopwatchMeter(round=round), priority).start()


def log_stop_time(key: str, weight: float = 0.0, prehook: Optional[Callable[[], None]] = None) -> None:
    """Add the seconds since `log_start_time`.

    Args:
        weight: above 0: show the mean instead of the sum.
        prehook: called before the clock is read.
    """
    for collected in get_active_aggregators():
        if key in collected:
            collected[key].stop(weight, prehook)


def log_custom(new_meter_fn: Callable[[], Meter], key: str, *args: Any, priority: int = 50, **kwargs: Any) -> None:
    """Log into a custom meter; further arguments go to its `update`."""
    for collected in get_active_aggregators():
        _meter(collected, key, new_meter_fn, priority).update(*args, **kwargs)


def reset_meter(name: str, key: str) -> None:
    meter = get_meter(name, key)
    if meter is not None:
        meter.reset()


def reset_meters(name: str) -> None:
    meters = get_meters(name)
    if meters is not None:
        meters.reset()


def get_meter(name: str, key: str) -> Optional[Meter]:
    """Return the meter `key` of scope `name`, or None if nothing was logged there."""
    return _aggregators[name].get(key) if name in _aggregators else None


def get_meters(name: str) -> Optional[MetersDict]:
    """Return all meters of scope `name`, or None if it was never opened."""
    return _aggregators.get(name)


def get_smoothed_value(name: str, key: str) -> Any:
    """Return one value to show.

    Raises:
        KeyError: nothing was logged under that scope and key.
    """
    return _aggregators[name].get_smoothed_value(key)


def get_smoothed_values(name: str) -> dict[str, Any]:
    """Return all values of a scope to show.

    Raises:
        KeyError: the scope was never opened.
    """
    return _aggregators[name].get_smoothed_values()


def state_dict() -> dict[str, Any]:
    return OrderedDict((name, meters.state_dict()) for name, meters in _aggregators.items())


def load_state_dict(state_dict: dict[str, Any]) -> None:
    """Load the meters of a checkpoint. Open scopes stay open, with the loaded meters."""
    for name, state in state_dict.items():
        _aggregators.setdefault(name, MetersDict()).load_state_dict(state)
