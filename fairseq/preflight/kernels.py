"""Operators that Gaudi's bridge runs on the card, by the tables of release 1.19, and how torch composes others."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

from fairseq.device import stand_in

TABLES = Path(__file__).parent / "tables"
RELEASE = "1.19"

# operators that only the CPU has -> the bridge's name for the same computation
_SAME = {"_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention"}


class DtypeLimit(NamedTuple):
    """Dtypes that an operator has no kernel for."""

    dtypes: frozenset[str]
    instead: str


@cache
def operators() -> frozenset[str]:
    """Names of the overloads that the bridge registers, in the form of `name_of`."""
    return frozenset(_rows("hpu_ops"))


@cache
def dtype_limits() -> dict[str, DtypeLimit]:
    """Dtypes that operators have no kernel for, by name without overload and in-place underscore."""
    limits = {}
    for row in _rows("hpu_dtypes"):
        name, dtypes, instead = row.split(maxsplit=2)
        limits[name] = DtypeLimit(frozenset(dtypes.split(",")), instead)
    return limits


def _rows(table: str) -> list[str]:
    lines = (TABLES / f"{table}_{RELEASE}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def name_of(operator: OpOverload) -> str:
    """Name of an operator as in the tables: without the prefix of aten and the overload `default`."""
    name = operator.name().removeprefix("aten::")
    return _SAME.get(name, name)


def has_kernel(operator: OpOverload) -> bool:
    """Whether the bridge registers an operator, or its out variant, from which torch derives the others."""
    if name_of(operator) in operators() or operator.namespace == stand_in.KERNELS:
        return True
    if not _has_key(operator, "CompositeExplicitAutogradNonFunctional"):
        return False
    packet = getattr(
        getattr(torch.ops, operator.namespace), operator._schema.name.split("::")[1].removesuffix("_"), None
    )
    if packet is None:
        return False
    variants = [getattr(packet, overload) for overload in packet.overloads()]
    return any(
        name_of(v) in operators()
        for v in variants
        if any(a.alias_info and a.alias_info.is_write for a in v._schema.arguments)
    )


def is_composite(operator: OpOverload) -> bool:
    """Whether torch has one kernel for all backends, composed of other operators."""
    return _has_key(operator, "CompositeExplicitAutograd") or _has_key(operator, "CompositeImplicitAutograd")


def run_composite(operator: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator's kernel for all backends, so that the operators it calls go through the dispatcher."""
    keys = torch._C.DispatchKey
    key = (
        keys.CompositeExplicitAutograd
        if _has_key(operator, "CompositeExplicitAutograd")
        else keys.CompositeImplicitAutograd
    )
    return operator._op_dk(key, *args, **kwargs)


def _has_key(operator: OpOverload, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)


def unsupported_dtype(operator: OpOverload, args: tuple[Any, ...]) -> tuple[str, str] | None:
    """Return the dtype of a call that has no kernel, and what to write instead; None if there is no such limit.

    A binary operation runs in the dtype that torch promotes its operands to; others are judged by their first tensor.
    """
    limit = dtype_limits().get(operator._schema.name.split("::")[-1].removesuffix("_"))
    if limit is None or not args:
        return None
    first = args[0][0] if isinstance(args[0], (list, tuple)) and args[0] else args[0]
    if not isinstance(first, Tensor):
        return None
    dtype = first.dtype
    if len(args) > 1 and operator._schema.arguments[1].name == "other":
        dtype = torch.result_type(first, args[1])
    name = str(dtype).removeprefix("torch.")
    return (name, limit.instead) if name in limit.dtypes else None
