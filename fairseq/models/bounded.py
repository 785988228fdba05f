"""Limit the size of a model built from a file's config to a few times the weights in that file.

A damaged or hostile config can ask for 10^9 layers. The model is rejected while it is built, whichever config key is
wrong: PyTorch reports every tensor before allocating it, and every parameter and module when it is registered.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

# a model can build parts that its file lacks (pre-training heads), and weight norm registers a weight up to three times
_TIMES = 4
_MORE_NUMBERS, _MORE_TENSORS, _MORE_MODULES = 1 << 26, 1000, 10_000


class TooLarge(ValueError):
    """The config describes a far larger model than the weights."""


class _Makes(TorchDispatchMode):
    """Call `check` with the size of every new tensor, before it is allocated."""

    def __init__(self, check: Callable[[int], None]) -> None:
        super().__init__()
        self.check = check

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], (list, tuple)) and all(isinstance(length, int) for length in args[0]):
            self.check(math.prod(args[0]))
        return func(*args, **(kwargs or {}))


@contextmanager
def by(weights: Mapping[str, Any]) -> Iterator[None]:
    """Context in which this thread can only build models up to a few times as large as `weights`.

    Raises:
        TooLarge: the model exceeds that; the message has no subject, so that the caller can name the file.
    """
    here = threading.get_ident()
    tensors = [value for value in weights.values() if isinstance(value, Tensor)]
    held = sum(tensor.numel() for tensor in tensors)
    most = {
        "numbers": _TIMES * held + _MORE_NUMBERS,
        "tensors": _TIMES * len(tensors) + _MORE_TENSORS,
        "modules": _TIMES * len(tensors) + _MORE_MODULES,
    }
    built = dict.fromkeys(most, 0)

    def check(what: str, number: int) -> None:
        if number > most[what]:
            raise TooLarge(
                f"its config describes a far larger model than its weights: more than {most[what]:,} {what}, but the "
                f"weights are {held:,} numbers in {len(tensors):,} tensors"
            )

    def count(what: str, more: int) -> None:
        if threading.get_ident() == here:
            built[what] += more
            check(what, built[what])

    def parameter(module: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            count("tensors", 1)
            count("numbers", value.numel())

    hooks = [
        register_module_parameter_registration_hook(parameter),
        register_module_module_registration_hook(lambda module, name, value: count("modules", 1)),
    ]
    try:
        with _Makes(lambda numbers: check("numbers", numbers)):
            yield
    finally:
        for hook in hooks:
            hook.remove()
