"""Operators that torch's lazy backend cannot record, written in ones that it can.

Each of them has a kernel on HPU (hpu_ops list of release 1.19), so a graph cut here would be a false alarm. None makes a view: this is
below the layer that tracks them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WITH_NUMBERS = ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
_LIBRARY: list[torch.library.Library] = []  # registrations last as long as this does


def register() -> None:
    """Add them to torch's dispatcher for the lazy device.

    Raises:
        ValueError: this torch cannot look up the kernels that it has (before release 2.9).
    """
    if not hasattr(torch.library, "get_kernel"):
        raise ValueError(f"common.device is lazy, which needs torch 2.9 or later; this is {torch.__version__}")
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*previously registered kernel.*")  # as intended
        for name, function in OPERATORS.items():
            library.impl(name, function, "Lazy")
        for name in WITH_NUMBERS:
            library.impl(name, _with_typed_numbers(name), "Lazy")
    _LIBRARY.append(library)


def _with_typed_numbers(name: str) -> Callable[..., Tensor]:
    """The backend's own kernel, given a Python number in the dtype of the result.

    The backend hands a number over as a 0-dim fp64 tensor, so that another value is no other graph; with a 0-dim fp32 tensor (a loss) the
    graph then computes in fp64, and matrix products further down meet two dtypes.
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
    """Both sides with zeros where the other stands, added: exact, whatever stands in the places that are not taken."""
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
    # 1 - [0, 1) is (0, 1]: the logarithm is finite
    return x.copy_(torch.rand(x.shape, dtype=x.dtype, device=x.device).neg().add(1).log().mul(-1 / lambd))


def _vector_norm(x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    assert ord == 2, "only lengths are needed"
    x = x if dtype is None else x.to(dtype)
    return (x * x).sum(list(range(x.dim())) if dim is None else dim, keepdim=keepdim).sqrt()


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    assert dim is not None, "argmax over all dimensions is not needed"
    return x.max(dim, keepdim=keepdim).indices


OPERATORS: dict[str, Callable[..., Any]] = {
    "where.self": _where,
    "bitwise_not": _bitwise_not,
    "exponential_": _exponential_,
    "linalg_vector_norm": _vector_norm,
    "argmax": _argmax,
}
