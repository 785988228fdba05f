"""fairseq's wrapper for parts of a model; sharding is not supported."""

from __future__ import annotations

from typing import Any

from torch import nn


def fsdp_wrap(module: nn.Module, min_num_params: int | None = None, **kwargs: Any) -> nn.Module:
    """Return the module unchanged, like fairseq without fairscale: parameters are not sharded."""
    return module
