"""The backend of torch.compile: runs the captured graph as it is, in eager mode only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from habana_frameworks import mode, recorder


def hpu_backend(
    graph_module: torch.fx.GraphModule, example_inputs: list[torch.Tensor], **kwargs: Any
) -> Callable[..., Any]:
    if mode.is_lazy():
        raise RuntimeError("hpu_backend is not available in lazy mode")
    recorder.note("hpu_backend", nodes=len(graph_module.graph.nodes))
    return graph_module.forward


def register() -> None:
    """Add this backend to torch's list, if that exists already, replacing one of an earlier import of the fake."""
    from torch._dynamo.backends import registry

    registry._COMPILER_FNS.pop("hpu_backend", None)
    registry.register_backend(hpu_backend, name="hpu_backend")
