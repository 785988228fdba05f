"""What the package replaces in torch at import: saving and loading in lazy mode, and seeding in both."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from habana_frameworks import mode, recorder, recording

_replays = 0  # in progress


@contextmanager
def replaying() -> Iterator[None]:
    """Replay a cached graph within the context: the real one runs no Python, so seeding has no effect."""
    begin_replay()
    try:
        yield
    finally:
        end_replay()


def begin_replay() -> None:
    global _replays
    _replays += 1


def end_replay() -> None:
    global _replays
    _replays -= 1


def is_replaying() -> bool:
    return _replays > 0


def install() -> None:
    _replace(torch, "manual_seed", _manual_seed(torch.manual_seed))
    set_rng_state = _unless_replaying(torch.set_rng_state)
    _replace(torch, "set_rng_state", set_rng_state)
    _replace(torch.random, "set_rng_state", set_rng_state)
    if mode.is_lazy():
        _replace(torch.Tensor, "tolist", _read(torch.Tensor.tolist))
        _replace(torch, "save", _save(torch.save))
        _replace(torch, "load", _load(torch.load))


def _replace(module: Any, name: str, function: Any) -> None:
    original = getattr(module, name)
    setattr(module, name, function)
    recorder.undo.append(lambda: setattr(module, name, original))


def _manual_seed(original: Any) -> Any:
    @wraps(original)
    def manual_seed(seed: int) -> torch.Generator:
        if is_replaying():
            return torch.default_generator
        if not mode.is_lazy():
            recorder.note("join_pending_pipeline_threads")  # the host waits; then torch.compile's seeds are drawn again
            recorder.note("reset_seeds")
        return original(seed)

    return manual_seed


def _unless_replaying(original: Any) -> Any:
    @wraps(original)
    def function(*args: Any) -> None:
        if not is_replaying():
            original(*args)

    return function


def _read(original: Any) -> Any:
    """Run the recorded operators before a read by the host. (A dispatch mode sees `item`, but not `tolist`.)"""

    def tolist(tensor: Tensor) -> Any:
        recording.cut()
        return original(tensor)

    return tolist


def _save(original: Any) -> Any:
    @wraps(original)
    def save(
        obj: object,
        f: Any,
        pickle_module: Any = pickle,
        pickle_protocol: int = 4,
        _use_new_zipfile_serialization: bool = True,
        _disable_byteorder_record: bool = False,
    ) -> None:
        recorder.note("save", pickle_protocol=pickle_protocol)
        original(
            _plain(obj), f, pickle_module, pickle_protocol, _use_new_zipfile_serialization, _disable_byteorder_record
        )

    return save


def _plain(obj: Any) -> Any:
    """Copy: ordered dicts and named tuples become plain ones, and tensors share no memory."""
    if isinstance(obj, torch.Size):
        return obj
    if isinstance(obj, dict):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [_plain(value) for value in obj]
    if isinstance(obj, tuple):
        return tuple(_plain(value) for value in obj)
    return obj.data.detach().clone() if isinstance(obj, Tensor) else obj


def _load(original: Any) -> Any:
    @wraps(original)
    def load(
        f: Any,
        map_location: Any = None,
        pickle_module: Any = pickle,
        weights_only: bool = False,
        mmap: bool | None = None,
        **more: Any,
    ) -> Any:
        module = None if weights_only else pickle_module
        return original(f, map_location="cpu", pickle_module=module, weights_only=weights_only, mmap=mmap, **more)

    return load
