"""Small functions under fairseq's names, and seeds."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.dataclass.utils import eval_str_list as eval_str_list  # fairseq: both modules have it
from fairseq.logging import destinations

logger = logging.getLogger(__name__)
T = TypeVar("T")
MANIFOLD_PATH_SEP = "|"  # fairseq: between paths with "://" in them
# for every torch.save: in lazy mode Gaudi's package changes the default to 4, which torch.load(weights_only=True)
# refuses
PICKLE_PROTOCOL = 2


# -- tensors and samples -----------------------------------------------------------------------------------------------


def is_hpu_tensor(tensor: Tensor) -> bool:
    """Whether the branches marked `# hpu:` run for this tensor; tests can make the device layer say so on a CPU."""
    return device_layer.takes_hpu_arms(tensor)


def apply_to_sample(function: Callable[[Tensor], Any], sample: Any) -> Any:
    """Apply `function` to every tensor in nested dicts, lists and tuples; returns the same nesting."""
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
    """Copy a sample's tensors to a device without waiting for it."""
    return apply_to_sample(lambda tensor: tensor.to(device, non_blocking=True), sample)


def move_to_cuda(sample: Any, device: torch.device | str | None = None) -> Any:
    return move_to_device(sample, device or "cuda")


def move_to_cpu(sample: Any) -> Any:
    """Copy a sample's tensors to the host; half precision becomes float32, which every CPU operator supports."""
    return apply_to_sample(lambda t: t.cpu().float() if t.dtype in (torch.float16, torch.bfloat16) else t.cpu(), sample)


def is_traced() -> bool:
    """Whether `torch.jit.trace` or `torch.export` is recording."""
    if hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting():  # torch before 2.7 lacks it
        return True
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - public, though not in torch's __all__


def index_put(tensor: Tensor, indices: Tensor, value: Tensor | float) -> Tensor:
    """`tensor` with `value` where boolean `indices` (its leading dimensions) are true, without waiting for the device.

    All shapes are static.
    """
    mask = indices.reshape(indices.shape + (1,) * (tensor.dim() - indices.dim()))
    return torch.where(mask, torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device), tensor)


def item(value: Any) -> Any:
    """The Python number of a 0-dim tensor (waits for the device); anything else unchanged."""
    return value.item() if isinstance(value, Tensor) else value


def strip_pad(tensor: Tensor, pad: int) -> Tensor:
    """The elements of a tensor that are not `pad`, 1-D."""
    return tensor[tensor.ne(pad)]


def buffered_arange(max: int, device: torch.device | str = "cpu") -> Tensor:
    """0 to max - 1, int64; unlike fairseq's shared buffer, a new tensor that can be written to."""
    return torch.arange(max, device=device)


def new_arange(x: Tensor, *size: int) -> Tensor:
    """0, 1, 2 ... along the last dimension of `size` (default: the size of x), int64, on the device of x."""
    shape = size or tuple(x.shape)
    return torch.arange(shape[-1], device=x.device).expand(*shape).contiguous()


def make_positions(tensor: Tensor, padding_idx: int, onnx_trace: bool = False) -> Tensor:
    """Positions of the symbols of each row, starting at padding_idx + 1; padding keeps padding_idx. B x U, int64."""
    valid = tensor.ne(padding_idx).long()
    return valid.cumsum(dim=1) * valid + padding_idx


def convert_padding_direction(
    src_tokens: Tensor, padding_idx: int, right_to_left: bool = False, left_to_right: bool = False
) -> Tensor:
    """Move the padding of every row, B x U, from its right end to its left end, or vice versa.

    Raises:
        ValueError: not exactly one direction is given.
    """
    if right_to_left == left_to_right:
        raise ValueError("convert_padding_direction needs exactly one of right_to_left=True and left_to_right=True")
    padding, length = src_tokens.eq(padding_idx), src_tokens.size(1)
    starts_padded, ends_padded = bool(padding[:, :1].any()), bool(padding[:, -1:].any())
    if not (ends_padded if right_to_left else starts_padded):
        return src_tokens
    shift = padding.sum(dim=1, keepdim=True)
    places = torch.arange(length, device=src_tokens.device) + (-shift if right_to_left else shift)
    return src_tokens.gather(1, places.remainder(length))


def fill_with_neg_inf(t: Tensor) -> Tensor:
    """A tensor like `t`, filled with -inf."""
    return torch.full_like(t, float("-inf"))


def is_xla_tensor(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.device.type == "xla"


def softmax(x: Tensor, dim: int, onnx_trace: bool = False) -> Tensor:
    """Softmax computed and returned in fp32."""
    return F.softmax(x, dim=dim, dtype=torch.float32)


def log_softmax(x: Tensor, dim: int, onnx_trace: bool = False) -> Tensor:
    """Log-softmax computed and returned in fp32."""
    return F.log_softmax(x, dim=dim, dtype=torch.float32)


# -- modules -----------------------------------------------------------------------------------------------------------


def has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@contextlib.contextmanager
def model_eval(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode within a block, then restore its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


# -- gradients ---------------------------------------------------------------------------------------------------------


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm over all elements of all tensors, 0-dim float32 on their device; 0 for none."""
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([t.float() for t in tensors])))


@torch.no_grad()
def clip_grad_norm_(
    params: Tensor | Iterable[Tensor], max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Clip gradients in place to an L2 norm of `max_norm` (0: no clipping); returns the norm before, on the device."""
    params = [params] if isinstance(params, Tensor) else list(params)
    grads = [p.grad for p in params if p.grad is not None]
    norm = total_norm(grads)
    if aggregate_norm_fn is not None:
        norm = aggregate_norm_fn(norm)
    if max_norm > 0 and grads:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


# -- randomness --------------------------------------------------------------------------------------------------------


def keyed_seed(*key: int) -> int:
    """A 63-bit seed that depends only on these non-negative integers (for instance seed, update, micro-batch)."""
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


# -- functions by name -------------------------------------------------------------------------------------------------


def gelu_accurate(x: Tensor) -> Tensor:
    """The tanh form of GELU."""
    return F.gelu(x, approximate="tanh")


def relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_squared": relu_squared,
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
    """Look up an activation function by name.

    Raises:
        ValueError: unknown name.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation_fn is {activation!r}; it must be one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[activation]


# -- text from configs and command lines -------------------------------------------------------------------------------


def csv_str_list(text: str) -> list[str]:
    return text.split(",")


def eval_str_dict(text: Any, type: Callable[[Any], T] = dict) -> Any:
    """A dict from a literal such as `{'a': 1}`, which is never run; anything but text is returned unchanged."""
    return ast.literal_eval(text) if isinstance(text, str) else text


def eval_bool(text: str | None, default: bool = False) -> bool:
    """The truth value of a literal such as `True` or `0`, which is never run; `default` for None."""
    return default if text is None else bool(ast.literal_eval(text) if isinstance(text, str) else text)


def split_paths(paths: str, separator: str = os.pathsep) -> list[str]:
    """Split joined paths, as in `--path a.pt:b.pt`; text with "://" in it is split at "|"."""
    return paths.split(MANIFOLD_PATH_SEP if "://" in paths else separator)


class FileContentsAction(argparse.Action):
    """An option whose value is a text, or a file that contains it."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        text = Path(values).read_text(encoding="utf-8").strip() if os.path.isfile(values) else values
        setattr(namespace, self.dest, text)


# -- limits and settings -----------------------------------------------------------------------------------------------


def resolve_max_positions(*limits: Any) -> Any:
    """Combine limits on a sample's length, for instance of a task and its models, to the tightest.

    Args:
        limits: None (no limit), a number, a tuple (a number for source, target ...) or a dict (a number or tuple for
            each key). Combined with a tuple or dict, a number limits each of its entries.
    Returns:
        The limit: a dict if any of them is one, else a tuple if any is one, else a number; None: there is no limit.
    """
    tightest = None
    for limit in limits:
        tightest = _tighter(tightest, limit)
    return tightest


def _tighter(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return min(a, b)
    if isinstance(a, dict) or isinstance(b, dict):
        a, b = _like(a, b), _like(b, a)
        return {key: _tighter(a.get(key), b.get(key)) for key in [*a, *(key for key in b if key not in a)]}
    return tuple(_tighter(x, y) for x, y in zip(_like(a, b), _like(b, a), strict=False))


def _like(limit: Any, other: Any) -> Any:
    """A number expanded to the form of the other limit; anything else unchanged."""
    if not isinstance(limit, (int, float)):
        return limit
    return dict.fromkeys(other, limit) if isinstance(other, dict) else (limit,) * len(other)


def safe_hasattr(obj: Any, k: str) -> bool:
    """Whether an object has an attribute that is not None."""
    return getattr(obj, k, None) is not None


def safe_getattr(obj: Any, k: str, default: Any = None) -> Any:
    """An attribute, or a config's value (also if its struct flag forbids unknown keys), else `default`."""
    if OmegaConf.is_config(obj):
        value = obj.get(k)
        return default if value is None else value
    return getattr(obj, k, default)


def deprecation_warning(message: str, stacklevel: int = 3) -> None:
    """Warn in a category that Python shows by default."""
    warnings.warn(message, stacklevel=stacklevel)


def reset_logging() -> None:
    """Make the root logger write fairseq's lines to standard output only, at LOGLEVEL (default: INFO)."""
    destinations.send_lines_to(logging.StreamHandler(sys.stdout))


def get_perplexity(loss: float | None, round: int = 2, base: float = 2.0) -> float:
    """`base` to the power of a loss; infinity on overflow, 0 for None."""
    if loss is None:
        return 0.0
    try:
        return float(f"{math.pow(base, item(loss)):.{round}f}")
    except OverflowError:
        return float("inf")


def make_folder(path: str | Path, option: str) -> None:
    """Make a folder and its parents.

    Args:
        option: the command-line option that names it, for errors.
    Raises:
        ValueError: the folder cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot make this folder: {error.strerror}") from error


def import_user_module(common: Any) -> None:
    """Import the package or module `common.user_dir` once, so that it registers its classes.

    Raises:
        ValueError: there is no such folder or file, or another module has its name.
    """
    if common.user_dir is None:
        return
    path = Path(common.user_dir).expanduser().resolve()
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_dir() and not source.is_file():
        raise ValueError(f"common.user_dir is {common.user_dir}: there is no such folder or .py file")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        where = getattr(known, "__file__", None)
        if where is not None and Path(where).resolve() == source:
            return
        owner = where or "a built-in module"
        raise ValueError(
            f"common.user_dir is {common.user_dir}: the module name {name!r} is taken by {owner}; rename the folder"
        )
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    importlib.import_module(name)
    logger.info("imported user_dir %s", path)
