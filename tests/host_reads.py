"""Which operators make the host wait for the device, noticed on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# their value, or the shape of their result, is known only when the device has computed it
READS = {
    "_local_scalar_dense",
    "_unique2",
    "argwhere",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique",
}
INDEXING = {"_index_put_impl_", "index", "index_put", "index_put_"}


class HostReads(TorchDispatchMode):
    """Collects, in a `with` block, every operator whose result, or whose shape, the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operators = 0  # all that ran: a block in which none does proves nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(name)
        if name in INDEXING:
            self.found += [
                f"{name} with a boolean mask"
                for index in args[1]
                if index is not None and index.dtype in (torch.bool, torch.uint8)
            ]
        return func(*args, **(kwargs or {}))
