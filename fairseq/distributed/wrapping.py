"""fairseq's wrapper of parts of a model, of which sharding is not offered."""

from __future__ import annotations

from typing import Any

from torch import nn


def fsdp_wrap(module: nn.Module, min_num_params: int | None = None, **kwargs: Any) -> nn.Module:
    """The module itself, as in fairseq where fairscale is not installed: parameters are not sharded here."""
    return module
