"""The table of names that a checkpoint's pickle may use, and what each one builds.

A pickle names classes and functions and calls them. Here a name only selects an entry of `ALLOWED`: a function of this
module that returns plain values, or an `Inert` that only stores the arguments. Nothing else is looked up or imported.
"""

from __future__ import annotations

import fnmatch
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Refused(ValueError):
    """The file holds something that is not allowed; the message names it as a noun phrase."""


class Inert:
    """An object whose class is not built: the class's name, and the object's data in the file."""

    __slots__ = ("arguments", "entries", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.entries: Any = None  # items or elements added to it


class InertKey(Inert):
    """An `Inert` that may be a dict's key; it equals only itself."""

    __slots__ = ()


class Storage:
    """A tensor's memory: one-dimensional, with the storage's type."""

    __slots__ = ("flat",)

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


class Global:
    """A name from the table, as an element of the pickle's stack."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None) -> None:
        self.name = name
        self.build = build

    def __call__(self, arguments: Any) -> Any:
        """Return the result of the file's call of this name."""
        if self.build is None or not isinstance(arguments, tuple):
            raise Refused(f"a call of {self.name}, which is not allowed")
        try:
            return self.build(*arguments)
        except (TypeError, ValueError, RuntimeError, LookupError, OverflowError) as error:
            if isinstance(error, Refused):
                raise
            raise Refused(f"a call of {self.name} with invalid arguments") from error


# -- tensors -----------------------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Build a view of a storage, without flags and hooks (`rest`); checks bounds, as torch does again."""
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, Storage)
        or len(size) != len(stride)
        or any(type(n) is not int or n < 0 for n in numbers)
    ):
        raise Refused("a tensor with invalid storage, sizes or strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.flat.numel():
        raise Refused("a tensor that reaches beyond its storage")
    return storage.flat.as_strided(size, stride, offset)


def _parameter(data: Any, *rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("a parameter that is not a tensor")
    return data


# -- numbers and containers --------------------------------------------------------------------------------------------


def _numpy_scalar(dtype: Any, content: Any) -> Any:
    """Convert a numpy number to Python's; its dtype is an `Inert` whose state begins (version, byte order)."""
    kind = dtype.arguments[0] if isinstance(dtype, Inert) and dtype.name == "numpy.dtype" and dtype.arguments else None
    if not isinstance(kind, str) or not re.fullmatch(r"[iuf][248]|[iub]1", kind) or not isinstance(content, bytes):
        raise Refused("a numpy value that is not a number")
    order = (
        dtype.state[1]
        if isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] in ("<", ">", "|")
        else "="
    )
    (value,) = np.frombuffer(content, dtype=np.dtype(kind).newbyteorder(order))
    return value.item()


def _latin1(text: Any, encoding: Any = None) -> bytes:
    """Decode bytes as Python 3 writes them into pickles of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("_codecs.encode with an encoding other than latin1")
    return text.encode("latin1")


def check_key(key: Any) -> Any:
    """Return a dict's key, or a set's element, if it is a plain value.

    Raises:
        Refused: it is not.
    """
    if isinstance(key, tuple):
        return tuple(check_key(part) for part in key)
    if not isinstance(key, (str, int, float, bool, type(None), bytes, InertKey)):
        raise Refused(f"a dict whose key is a {type(key).__name__}")
    return key


def _ordered(*arguments: Any) -> OrderedDict[Any, Any]:
    return OrderedDict([(check_key(key), value) for pairs in arguments for key, value in pairs])


def _from_factory(*arguments: Any) -> dict[Any, Any]:
    """Build a dict from a defaultdict, without its factory."""
    return {}


def _typing_parameters(generic: Any, parameters: Any) -> Inert:
    """Accept typing.Optional[str] and the like, which omegaconf stores as the types of nodes."""
    if not isinstance(generic, Global) or not generic.name.startswith("typing."):
        raise Refused("operator.getitem of something that is not a type")
    return Inert("typing")


def _set(values: Any = ()) -> set[Any]:
    return {check_key(value) for value in values}


def _device(*arguments: Any) -> str:
    return ":".join(str(argument) for argument in arguments)


_INERT_CLASSES = (
    "argparse.Namespace",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.base.SCMode",
    "fairseq.data.dictionary.Dictionary",
    *(
        f"{module}.{kind}Meter"
        for module in ("fairseq.meters", "fairseq.logging.meters")
        for kind in ("Average", "Time", "Stopwatch")
    ),
    "numpy.dtype",
)
_ONLY_NAMES = (
    "builtins.dict",
    "builtins.list",
    "builtins.tuple",
    "builtins.str",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
)
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
STORAGE_TYPES = {f"torch.{kind}Storage": dtype for kind, dtype in _DTYPES.items()}

# name -> function for a call of it; None: it may be named, as a type or a factory, but never called. `*`: any ending
ALLOWED: dict[str, Callable[..., Any] | None] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": _device,
    **dict.fromkeys(STORAGE_TYPES),
    **dict.fromkeys(f"torch.{name}" for name in ("float32", "float16", "bfloat16", "int64")),
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _from_factory,
    "builtins.set": _set,
    "builtins.frozenset": lambda values=(): frozenset(_set(values)),
    "_codecs.encode": _latin1,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "operator.getitem": _typing_parameters,
    "_operator.getitem": _typing_parameters,
    "typing.*": None,
    "fairseq.*Config": None,
    **dict.fromkeys(f"{package}.*Config" for package in ("examples", "data2vec", "contentvec")),
    **dict.fromkeys(_ONLY_NAMES),
    **{name: lambda *arguments, name=name: Inert(name, arguments) for name in _INERT_CLASSES},
}

# the names in the metadata of torch.distributed.checkpoint, which only `shard_index` reads
_DCP = "torch.distributed.checkpoint"
ALLOWED_IN_METADATA: dict[str, Callable[..., Any] | None] = {
    **{
        name: lambda *arguments, name=name: Inert(name, arguments)
        for name in (
            *(
                f"{_DCP}.metadata.{kind}"
                for kind in (
                    "Metadata",
                    "TensorStorageMetadata",
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "TensorProperties",
                    "_MEM_FORMAT_ENCODING",
                    "StorageMeta",
                )
            ),
            f"{_DCP}.filesystem._StorageInfo",
            "torch.serialization._get_layout",
        )
    },
    f"{_DCP}.metadata.MetadataIndex": lambda *arguments: InertKey("MetadataIndex", arguments),
    "torch.Size": tuple,
    **dict.fromkeys(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in STORAGE_TYPES.values()),
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def look_up(module: str, name: str, table: Mapping[str, Callable[..., Any] | None] = ALLOWED) -> Global:
    """Look up a name in a table.

    Raises:
        Refused: the table does not have it.
    """
    name = f"{_PYTHON_2.get(module, module)}.{'int' if (module, name) == ('__builtin__', 'long') else name}"
    for pattern, build in table.items():
        if name == pattern or ("*" in pattern and fnmatch.fnmatchcase(name, pattern)):
            return Global(name, build)
    raise Refused(f"pickled objects of {name}")


# -- plain values ------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Replace every `Inert`: omegaconf's configs become dicts and lists (interpolations stay text), meters dicts.

    Raises:
        Refused: containers that repeat each other so often that the result would be too large.
    """
    return _Plain().of(value)


class _Plain:
    """One conversion. It counts values, because a small pickle can expand to billions by repeating references."""

    MOST_VALUES = 20_000_000  # the optimizer's state for 1,000 tensors has about ten thousand

    def __init__(self) -> None:
        self.count = 0

    def of(self, value: Any) -> Any:
        self.count += 1
        if self.count > self.MOST_VALUES:
            raise Refused(f"containers of more than {self.MOST_VALUES:,} values")
        if isinstance(value, Inert):
            return self._inert(value)
        if isinstance(value, Global):
            return value.name
        if isinstance(value, dict):
            return type(value)((key, self.of(item)) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return type(value)(self.of(item) for item in value)
        return value

    def _inert(self, value: Inert) -> Any:
        state = value.state if isinstance(value.state, dict) else {}
        if value.name == "argparse.Namespace":
            namespace = Namespace()
            vars(namespace).update(self.of(state))
            return namespace
        if value.name.startswith("omegaconf."):
            # without `_parent`, which would be a cycle
            return self.of(state.get("_content", state.get("_val")))
        if value.name.endswith(".Dictionary"):
            return _dictionary(self.of(state))
        return self.of(state)


def _dictionary(state: dict[str, Any]) -> dict[str, Any]:
    """Convert fairseq's Dictionary to the form of `fairseq.data.dictionary.Dictionary.state_dict`."""
    symbols, counts = state.get("symbols"), state.get("count")
    if not isinstance(symbols, list) or not isinstance(counts, list) or len(symbols) != len(counts):
        raise Refused("a fairseq.data.dictionary.Dictionary without symbols and counts")
    special = {name: state.get(f"{name}_word") for name in ("bos", "pad", "eos", "unk")}
    return {"symbols": symbols, "count": counts, "nspecial": state.get("nspecial", 0), **special}
