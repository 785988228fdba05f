"""Read a pickle without running it: interpret its opcodes, with values that only `allowed.ALLOWED` can build.

`pickletools.genops` (the standard library's disassembler) splits the stream. The interpreter supports the opcodes that
data needs and refuses the rest. Unlike `pickle.Unpickler`, it imports no names, calls only the functions in the table,
and never touches an object's `__setstate__`, `__reduce__`, `__dict__` or attributes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from torch import Tensor

from fairseq.checkpoint.allowed import ALLOWED, Global, Inert, Refused, check_key, look_up

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_ARGUMENT_IS_THE_VALUE = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Mark:
    """The start of a collection's items on the stack."""


_MARK = _Mark()


def unpickle(
    stream: bytes | BinaryIO,
    persistent: Callable[[Any], Any] | None = None,
    table: Mapping[str, Callable[..., Any] | None] = ALLOWED,
) -> Any:
    """Read one pickle; a file is left positioned right after it.

    Args:
        table: the names that it may use; see `allowed`.
        persistent: returns the object for an id in the pickle (a checkpoint's storages).
    Raises:
        Refused: a name outside the table, an opcode that data does not need, or a stream that is not a pickle.
    """
    machine = _Machine(persistent, table)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.result()
            machine.do(opcode.name, argument)
    except Refused:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        UnicodeError,
        MemoryError,
    ) as error:
        raise Refused("a stream that is not a pickle of plain data") from error
    raise Refused("a stream that ends too early")


class _Machine:
    """The pickle interpreter: a stack, a memo, and the effect of each opcode."""

    def __init__(self, persistent: Callable[[Any], Any] | None, table: Mapping[str, Callable[..., Any] | None]) -> None:
        self.persistent = persistent
        self.table = table
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT_IS_THE_VALUE:
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._global(argument)
        elif name not in ("PROTO", "FRAME"):
            self._build(name)

    def _build(self, name: str) -> None:
        """Run an opcode that builds values from those on the stack."""
        if name in _TUPLES:
            self.stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            items = self._pop_to_mark()
            self.stack.append(_COLLECTIONS[name](items))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop_many(2) if name == "SETITEM" else self._pop_to_mark()
            _put(self.stack[-1], _pairs(items))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._pop_many(1) if name == "APPEND" else self._pop_to_mark()
            _extend(self.stack[-1], items)
        elif name in ("REDUCE", "NEWOBJ"):
            called, arguments = self._pop_many(2)
            if not isinstance(called, Global):
                raise Refused(f"a call of a {type(called).__name__}")
            self.stack.append(called(arguments))
        elif name == "BUILD":
            (state,) = self._pop_many(1)
            _set_state(self.stack[-1], state)
        elif name == "BINPERSID":
            if self.persistent is None:
                raise Refused("references to other objects")
            self.stack.append(self.persistent(self._pop_many(1)[0]))
        else:
            raise Refused(f"the opcode {name}, which no checkpoint needs")

    def _global(self, argument: str | None) -> None:
        module, name = self._pop_many(2) if argument is None else argument.split(" ", 1)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is not a string")
        self.stack.append(look_up(module, name, self.table))

    def _pop_many(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise Refused("a stream that is not a pickle")
        del self.stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise Refused("a stream that is not a pickle")

    def result(self) -> Any:
        (value,) = self._pop_many(1)
        return value


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise Refused("a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _put(target: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """Put items into a dict (or OrderedDict; no other type here defines `__setitem__`)."""
    for key, _ in pairs:
        check_key(key)
    if isinstance(target, Inert):
        target.entries = [*(target.entries or []), *pairs]
    elif isinstance(target, dict):
        target.update(pairs)
    else:
        raise Refused(f"items for a {type(target).__name__}")
    return target


_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": lambda items: _put({}, _pairs(items)),
    "FROZENSET": lambda items: frozenset(map(check_key, items)),
}


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Inert):
        target.entries = [*(target.entries or []), *items]
    elif isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(map(check_key, items))
    else:
        raise Refused(f"elements for a {type(target).__name__}")


def _set_state(target: Any, state: Any) -> None:
    """Keep the state of an `Inert`; drop attributes of dicts (module versions, in torch's state dicts) and tensors."""
    if isinstance(target, Inert):
        target.state = state
    elif not isinstance(target, (dict, Tensor)):
        raise Refused(f"a state for a {type(target).__name__}")
