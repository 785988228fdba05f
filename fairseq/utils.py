"""Small helpers kept by fairseq's names, and the keys of randomness."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq import device as device_layer

logger = logging.getLogger(__name__)
T = TypeVar("T")


# said to every torch.save: in lazy mode Gaudi's package makes the default 4, which torch.load(weights_only=True) refuses
PICKLE_PROTOCOL = 2


# -- tensors and samples -----------------------------------------------------------------------------------------------------------


def is_hpu_tensor(tensor: Tensor) -> bool:
    """Whether the branches marked `# hpu:` run for this tensor; the device layer decides, so that stand-ins and tests take them too."""
    return device_layer.takes_hpu_arms(tensor)


def apply_to_sample(function: Callable[[Tensor], Any], sample: Any) -> Any:
    """The same nest of dicts, lists and tuples with `function` applied to every tensor."""
    if isinstance(sample, Tensor):
        return function(sample)
    if isinstance(sample, dict):
        return type(sample)((key, apply_to_sample(function, value)) for key, value in sample.items())
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*(apply_to_sample(function, value) for value in sample))
    if isinstance(sample, (list, tuple, set)):
        return type(sample)(apply_to_sample(function, value) for value in sample)
    return sample


def move_to_device(sample: Any, device: torch.device | str) -> Any:
    """A sample's tensors on a device; the copies do not wait for it."""
    return apply_to_sample(lambda tensor: tensor.to(device, non_blocking=True), sample)


def move_to_cuda(sample: Any, device: torch.device | str | None = None) -> Any:
    return move_to_device(sample, device or "cuda")


def move_to_cpu(sample: Any) -> Any:
    """A sample's tensors on the host; half-precision ones become float32, which every CPU operator takes."""
    return apply_to_sample(lambda t: t.cpu().float() if t.dtype in (torch.float16, torch.bfloat16) else t.cpu(), sample)


def index_put(tensor: Tensor, indices: Tensor, value: Tensor | float) -> Tensor:
    """`tensor` with `value` where the boolean `indices` (leading dimensions of `tensor`) are true; static shapes, no host read."""
    mask = indices.reshape(indices.shape + (1,) * (tensor.dim() - indices.dim()))
    return torch.where(mask, torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device), tensor)


def item(value: Any) -> Any:
    """The Python number of a 0-dim tensor (waits for the device); anything else as it is."""
    return value.item() if isinstance(value, Tensor) else value


# -- gradients ---------------------------------------------------------------------------------------------------------------------


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, 0-dim float32 on their device; 0 for none."""
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([t.float() for t in tensors])))


@torch.no_grad()
def clip_grad_norm_(
    params: Tensor | Iterable[Tensor], max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Scale gradients in place to an L2 norm of at most `max_norm` (0: no clipping); returns the norm before, on the device."""
    params = [params] if isinstance(params, Tensor) else list(params)
    grads = [p.grad for p in params if p.grad is not None]
    norm = total_norm(grads)
    if aggregate_norm_fn is not None:
        norm = aggregate_norm_fn(norm)
    if max_norm > 0 and grads:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


# -- randomness --------------------------------------------------------------------------------------------------------------------


def keyed_seed(*key: int) -> int:
    """A 63-bit seed that is a function of these non-negative integers alone (for instance seed, update, micro-batch)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def set_torch_seed(seed: int) -> None:
    """Seed torch's default generators on every device."""
    torch.manual_seed(seed)


def get_rng_state() -> dict[str, Tensor]:
    """States of torch's default generators, on the host and on the devices, for `set_rng_state`."""
    state = {"torch_rng_state": torch.get_rng_state()}
    for device in device_layer.known():
        state.update(device.rng_state())
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["torch_rng_state"])
    for device in device_layer.known():
        device.set_rng_state(state)


# -- functions by name -------------------------------------------------------------------------------------------------------------


def gelu_accurate(x: Tensor) -> Tensor:
    """The tanh form of GELU."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu_fast": gelu_accurate,
    "gelu_accurate": gelu_accurate,
    "tanh": torch.tanh,
    "linear": lambda x: x,
    "swish": F.silu,
}


def get_available_activation_fns() -> list[str]:
    return list(_ACTIVATIONS)


def get_activation_fn(activation: str) -> Callable[[Tensor], Tensor]:
    """The function of an activation's name.

    Raises:
        ValueError: no such name.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation_fn is {activation!r}; it may be one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[activation]


# -- text from configs and command lines -------------------------------------------------------------------------------------------


def eval_str_list(text: Any, type: Callable[[Any], T] = float) -> list[T] | None:
    """A list from a literal such as `[0.9,0.98]`, `(1,2)` or `5`, parsed as a literal and never run; None stays None."""
    if text is None:
        return None
    value = ast.literal_eval(text) if isinstance(text, str) else text
    return [type(x) for x in value] if isinstance(value, Iterable) else [type(value)]


def csv_str_list(text: str) -> list[str]:
    return text.split(",")


def get_perplexity(loss: float | None, round: int = 2, base: float = 2.0) -> float:
    """`base` to the power of a loss, infinite where that overflows."""
    if loss is None:
        return 0.0
    try:
        return float(f"{math.pow(base, item(loss)):.{round}f}")
    except OverflowError:
        return float("inf")


def make_folder(path: str | Path, option: str) -> None:
    """Make a folder, with those above it, that a command's `option` names.

    Raises:
        ValueError: there cannot be one; names the option.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be a folder: {error.strerror}") from error


def import_user_module(common: Any) -> None:
    """Import the package or module that `common.user_dir` names, once, so that what it registers can be used.

    Raises:
        ValueError: no such folder or file, or its name is taken by another module.
    """
    if common.user_dir is None:
        return
    path = Path(common.user_dir).expanduser().resolve()
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_dir() and not source.is_file():
        raise ValueError(f"common.user_dir is {common.user_dir}: there is neither such a folder nor such a module")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        where = getattr(known, "__file__", None)
        if where is not None and Path(where).resolve() == source:
            return
        owner = where or "a built-in module"
        raise ValueError(f"common.user_dir is {common.user_dir}: the name {name!r} belongs to {owner}; rename the folder")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    importlib.import_module(name)
    logger.info("imported user_dir %s", path)
