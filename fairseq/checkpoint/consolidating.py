"""Write a sharded checkpoint as one file, with one whole tensor in memory at a time.

`torch.save` needs all tensors at once. The file is the same: a pickle in which each tensor refers to a record, and the
records, which torch's own writer adds one by one.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
from collections import OrderedDict
from typing import Any, NamedTuple, cast

import torch
from torch._utils import _rebuild_tensor_v2

from fairseq.checkpoint import atomic, sharded
from fairseq.checkpoint.allowed import STORAGE_TYPES
from fairseq.checkpoint.sharded import Later
from fairseq.utils import PICKLE_PROTOCOL

_STORAGES = {dtype: getattr(torch, name.rpartition(".")[2]) for name, dtype in STORAGE_TYPES.items()}


class _Record(NamedTuple):
    """A tensor's memory, in the pickle."""

    key: str
    dtype: torch.dtype
    numel: int


class _Pickler(pickle.Pickler):
    """Pickle a state as `torch.save` does, and list the tensors that are still to be read."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=PICKLE_PROTOCOL)
        self.later: list[Later] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Later):
            return NotImplemented
        size, dtype = value.stored.size, value.stored.dtype
        record = _Record(str(len(self.later)), dtype, math.prod(size))
        self.later.append(value)
        stride = torch.empty(size, device="meta").stride()
        return _rebuild_tensor_v2, (record, 0, size, stride, False, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Record):
            return None
        return "storage", _STORAGES[value.dtype], value.key, "cpu", value.numel


def write(folder: str, file: atomic.Disk) -> None:
    """Write the state in a folder to an open file.

    Raises:
        Refused, zipfile.BadZipFile, OSError, ValueError: the folder cannot be read; see `sharded.load`.
    """
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(sharded.unread(folder))
    with cast(Any, torch.serialization._open_zipfile_writer(cast(Any, file))) as writer:
        writer.write_record("data.pkl", content.getvalue(), len(content.getvalue()))
        writer.write_record("byteorder", sys.byteorder, len(sys.byteorder))
        for key, later in enumerate(pickler.later):
            storage = later.read().untyped_storage()
            writer.write_record(f"data/{key}", storage, storage.nbytes())
            del storage
