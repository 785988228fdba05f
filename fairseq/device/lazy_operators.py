"""Operators that torch's lazy backend cannot record, composed of ones that it can.

Each has a kernel on HPU (hpu_ops list of release 1.19), so a graph cut here would be a false alarm. None returns a
view: these run below the layer that tracks views.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WITH_NUMBERS = ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
_LIBRARY: list[torch.library.Library] = []  # keeps the registrations alive


def register() -> None:
    """Register these operators with torch's dispatcher for the lazy device.

    Raises:
        ValueError: this torch cannot look up its own kernels (before release 2.9).
    """
    if not hasattr(torch.library, "get_kernel"):
        raise ValueError(
            f"common.device is lazy, which needs torch 2.9 or later, but this is torch {torch.__version__}. Update "
            "torch, or use another device."
        )
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*previously registered kernel.*")  # intended
        for name, function in OPERATORS.items():
            library.impl(name, function, "Lazy")
        for name in WITH_NUMBERS:
            library.impl(name, _with_typed_numbers(name), "Lazy")
    _LIBRARY.append(library)


def _with_typed_numbers(name: str) -> Callable[..., Tensor]:
    """Return the backend's own kernel, with Python numbers converted to the dtype of the result.

    The backend passes a number as a 0-dim fp64 tensor, so that another value does not make another graph. Next to a
    0-dim fp32 tensor (a loss) the graph then computes in fp64, and later matrix products get two dtypes.
    """
    kernel = torch.library.get_kernel(f"aten::{name}", "Lazy")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.Lazy)

    def call(x: Any, other: Any, **kwargs: Any) -> Tensor:
        dtype = torch.result_type(x, other)
        x = x if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype)
        other = other if isinstance(other, Tensor) else torch.tensor(other, dtype=dtype)
        return kernel.call_boxed(keys, x, other, **kwargs)

    return call


def _where(condition: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """Add both sides, each zeroed where the other is chosen: exact even if values not chosen are inf or NaN."""
    shape = torch.broadcast_shapes(condition.shape, x.shape, other.shape)
    dtype = torch.result_type(x, other)  # one side may be a Python number, which takes the other's dtype
    if dtype == torch.bool:
        return (condition & x) | (~condition & other)
    x, other = _of_shape(x, shape, dtype), _of_shape(other, shape, dtype)
    condition = condition if condition.dtype == torch.bool else condition != 0
    return x.masked_fill(~condition, 0) + other.masked_fill(condition, 0)


def _of_shape(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype)
    return x if x.shape == shape else x + torch.zeros(shape, dtype=dtype, device=x.device)


def _bitwise_not(x: Tensor) -> Tensor:
    return x == 0 if x.dtype == torch.bool else -x - 1


def _exponential_(x: Tensor, lambd: float = 1.0, generator: Any = None) -> Tensor:
    # 1 - [0, 1) is (0, 1], so the logarithm is finite. Never 0, as in torch: callers take the logarithm of the result
    drawn = (
        torch.rand(x.shape, dtype=x.dtype, device=x.device)
        .neg()
        .add(1)
        .log()
        .neg()
        .clamp(min=torch.finfo(x.dtype).eps / 2)
    )
    return x.copy_(drawn / lambd)


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return _of_shape(torch.ops.aten._to_copy(source, dtype=x.dtype, device=x.device), x.shape, x.dtype)


def _expm1(x: Tensor) -> Tensor:
    return (x / 2).tanh() * (x.exp() + 1)  # exact around 0, where exp(x) - 1 is not


def _vector_norm(
    x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    assert ord == 2, "only the L2 norm is implemented"
    x = x if dtype is None else x.to(dtype)
    return (x * x).sum(list(range(x.dim())) if dim is None else dim, keepdim=keepdim).sqrt()


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    norms = _vector_norm(v, 2, [d for d in range(v.dim()) if d != dim], keepdim=True)
    return v * (g / norms), norms


def _weight_norm_backward(grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    along = (grad * v).sum([d for d in range(v.dim()) if d != dim], keepdim=True) / norms
    return (grad - v * (along / norms)) * (g / norms), along


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    assert dim is not None, "argmax over all dimensions is not implemented"
    return x.max(dim, keepdim=keepdim)[1]


def _argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    return _argmax(-x, dim, keepdim)


def _any(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return (x != 0).sum([dim], keepdim=keepdim) > 0


def _floor_divide(x: Tensor, other: Any) -> Tensor:
    return torch.div(x, other, rounding_mode="floor")


def _lerp(x: Tensor, end: Tensor, weight: float) -> Tensor:
    return x + (end - x) * weight


def _lerp_(x: Tensor, end: Tensor, weight: float) -> Tensor:
    return x.copy_(_lerp(x, end, weight))


OPERATORS: dict[str, Callable[..., Any]] = {
    "where.self": _where,
    "bitwise_not": _bitwise_not,
    "exponential_": _exponential_,
    "copy": _copy,
    "expm1": _expm1,
    "linalg_vector_norm": _vector_norm,
    "_weight_norm_interface": _weight_norm,
    "_weight_norm_interface_backward": _weight_norm_backward,
    "argmax": _argmax,
    "argmin": _argmin,
    "any.dim": _any,
    "floor_divide": _floor_divide,
    "lerp.Scalar": _lerp,
    "lerp_.Scalar": _lerp_,
}
