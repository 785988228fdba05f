"""Keys of compiled graphs in Gaudi's lazy mode: the bridge's rule, applied to a recorded stream of operators.

The bridge caches compiled graphs by a key. A tensor enters the key with its shape and dtype. A Python number passed as
a tensor (`x * 0.5`) becomes an input, so its value can change. A `Scalar` argument (`x.fill_(0.5)`) is part of the key:
another value compiles another graph. Source: gaudi-pytorch-bridge 1.19, `lazy_graph_hash_builder.cpp`,
`lazy_kernels.cpp`, `hpu_op.yaml`.

The device `cpu:0` represents the card: `tensor.to("cpu:0")` is a copy that a dispatch mode sees, and results computed
from it count as the card's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

CARD = "cpu:0"  # device of tensors that represent the card's

# `Scalar` arguments that the bridge turns into inputs (its frontends named ...ScalarToTensor and the like)
_COMPARED = {f"{name}.Scalar" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_BITWISE = {f"bitwise_{name}.Scalar" for name in ("and", "or", "xor")}
_DIVIDED = {
    f"{name}.{overload}"
    for name in ("div", "div_")
    for overload in ("Scalar", "Scalar_mode", "Scalar_out", "Scalar_mode_out")
}
_LIFTED = {**dict.fromkeys(_COMPARED | _BITWISE | _DIVIDED, "other")}
# also inputs, except 1, which the graph leaves out: the key records which of the two it is
_LIFTED_BUT_FOR_1 = {
    **{f"{name}.{overload}": "alpha" for name in ("add", "add_", "sub", "sub_") for overload in ("Tensor", "out")},
    **dict.fromkeys(("addcdiv", "addcdiv_", "addcdiv.out", "addcmul", "addcmul_", "addcmul.out"), "value"),
}
_NOT_IN_KEYS = {"device", "layout", "pin_memory", "non_blocking", "memory_format", "generator"}
_VIEWS = {"lift_fresh", "detach", "alias"}  # of host data, or of tensors that are pending already
_MOST_PENDING = 64  # longest chain of host operations that may turn out to be the card's


class Call(NamedTuple):
    """The parts of an operator call that a compiled graph depends on."""

    operator: str
    signature: tuple[Any, ...]  # (argument, shape and dtype of a tensor, or the value of a constant), in order
    place: str


class Change(NamedTuple):
    """Where a new graph first differs from a known one."""

    operator: str
    place: str
    difference: str  # "value was 2.0, then 1.99"

    def __str__(self) -> str:
        return f"{self.operator} at {self.place}: {self.difference}"


@cache
def _arguments(operator: OpOverload) -> tuple[tuple[str, bool], ...]:
    """(name, takes tensors) of an operator's arguments."""
    return tuple((argument.name, "Tensor" in str(argument.type)) for argument in operator._schema.arguments)


def signature(operator: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What a call adds to the key of its graph.

    Args:
        name: the operator's, without `aten::` and the overload `default`.
    """
    parts = []
    given = [
        (argument, takes_tensors, args[i])
        for i, (argument, takes_tensors) in enumerate(_arguments(operator)[: len(args)])
    ]
    given += [
        (argument, takes_tensors, kwargs[argument])
        for argument, takes_tensors in _arguments(operator)
        if argument in kwargs
    ]
    for argument, takes_tensors, value in given:
        if argument in _NOT_IN_KEYS:
            continue
        if takes_tensors:
            parts.append((argument, tuple(map(_input, value)) if isinstance(value, (list, tuple)) else _input(value)))
        elif _LIFTED.get(name) == argument:
            parts.append((argument, type(value).__name__))
        elif _LIFTED_BUT_FOR_1.get(name) == argument:
            parts.append((argument, 1 if value == 1 else type(value).__name__))
        else:
            parts.append((argument, tuple(value) if isinstance(value, list) else value))
    return tuple(parts)


def _input(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return None if value is None else type(value).__name__  # a number, which becomes a tensor


class Recorder:
    """Split a stream of operators into graphs, leaving out what runs on the host.

    The card's operators are those on tensors that were sent there or created there. A tensor created without inputs
    (`torch.zeros(3, device=x.device)`) does not show whether it is the card's: its creation counts once the card uses
    it.

    Args:
        ended: called with the operators of each graph, at `cut` and where a value is read.
    """

    def __init__(self, ended: Callable[[list[Call]], None]) -> None:
        self._ended = ended
        self._calls: list[Call] = []
        self._card: dict[int, StorageWeakRef] = {}
        self._pending: dict[int, tuple[StorageWeakRef, list[Call]]] = {}

    def cut(self) -> None:
        """End the graph: at a `mark_step`, or when the host reads a value."""
        calls, self._calls = self._calls, []
        for known in (self._card, self._pending):
            for key in [
                key for key, entry in known.items() if (entry[0] if isinstance(entry, tuple) else entry).expired()
            ]:
                del known[key]
        if calls:
            self._ended(calls)

    def note(
        self,
        operator: OpOverload,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        place: Callable[[], str],
    ) -> None:
        """Note an operator that has just run."""
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        on_card = any(self._is_on_card(tensor) for tensor in inputs)
        to_card = kwargs.get("device") is not None and torch.device(kwargs["device"]) == torch.device(CARD)
        if name == "_local_scalar_dense":
            if on_card:
                self.cut()
        elif name == "_to_copy" and to_card and (not on_card or inputs[0].dtype == outputs[0].dtype):
            self._put_on_card(outputs)  # a copy to the card is not part of a graph
        elif name == "copy_" and on_card and not self._is_on_card(args[1]):
            pass  # nor is a copy into a tensor of the card's
        elif on_card or to_card:
            self._emit(inputs)
            self._calls.append(Call(name, signature(operator, name, args, kwargs), place()))
            self._put_on_card(outputs)
        elif name not in _VIEWS and all(self._is_pending(tensor) for tensor in inputs):
            self._hold(inputs, outputs, Call(name, signature(operator, name, args, kwargs), place()))

    def _hold(self, inputs: list[Tensor], outputs: list[Tensor], call: Call) -> None:
        before = [earlier for tensor in inputs for earlier in self._pending[_storage(tensor)][1]]
        calls = [*dict.fromkeys(before), call]
        for tensor in outputs:
            if len(calls) <= _MOST_PENDING:
                self._pending[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage()), calls
            else:
                self._pending.pop(_storage(tensor), None)

    def _emit(self, inputs: Iterable[Tensor]) -> None:
        """Add the pending operators that created these tensors to the graph."""
        for tensor in inputs:
            if self._is_pending(tensor):
                self._calls += self._pending.pop(_storage(tensor))[1]

    def _put_on_card(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._card[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def _is_on_card(self, value: Any) -> bool:
        entry = self._card.get(_storage(value)) if isinstance(value, Tensor) else None
        return entry is not None and not entry.expired()

    def _is_pending(self, tensor: Tensor) -> bool:
        entry = self._pending.get(_storage(tensor))
        return entry is not None and not entry[0].expired()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Compiled:
    """The graphs that have been compiled, by their keys."""

    def __init__(self) -> None:
        self._keys: set[tuple[Any, ...]] = set()
        self._latest: dict[tuple[str, ...], list[Call]] = {}  # by the operators' names

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, calls: list[Call]) -> Change | None:
        """Compile a graph if its key is new.

        Returns:
            Where it first differs from the most similar known graph; None if its key is known.
        """
        key = tuple(call[:2] for call in calls)
        if key in self._keys:
            return None
        self._keys.add(key)
        names = tuple(call.operator for call in calls)
        like = self._latest.get(names) or max(
            self._latest.values(), key=lambda known: _common(known, calls), default=[]
        )
        self._latest[names] = calls
        return _change(like, calls)


def _common(one: list[Call], other: list[Call]) -> int:
    """Number of calls at the start that two graphs have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a[:2] != b[:2]), min(len(one), len(other)))


def _change(known: list[Call], new: list[Call]) -> Change:
    at = _common(known, new)
    if at >= len(new):
        return Change(new[-1].operator, new[-1].place, "the graph ends, but the earlier one continued")
    call = new[at]
    if at >= len(known):
        return Change(call.operator, call.place, "the graph continues, but the earlier one ended")
    if known[at].operator != call.operator:
        return Change(call.operator, call.place, f"the earlier graph called {known[at].operator}")
    before, after = dict(known[at].signature), dict(call.signature)
    name = next(name for name in {**before, **after} if before.get(name) != after.get(name))
    return Change(call.operator, call.place, f"{name} was {before.get(name)}, then {after.get(name)}")
