"""PyTorch's lazy-tensor device: operations run as graphs on the CPU, as in Gaudi's lazy mode on the card."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from fairseq.device import graph_counts
from fairseq.device.base import Device

if TYPE_CHECKING:
    from omegaconf import DictConfig


class LazyDevice(Device):
    """Real graph capture without a card, for tests and checks: one process, fp32, no fused kernels, slow.

    It takes the branches marked `# hpu:`. Operators that the HPU has a kernel for, but torch's backend cannot record,
    are composed of others that it can (`lazy_operators`).
    """

    type = "lazy"
    takes_hpu_arms = True
    graphs_are_static = True
    records_graphs = True
    statistics_dtype = torch.float32  # as on HPU, which has no float64
    dropout_form = "native"
    ctc_on_host = True
    torch_fuses_adam = False

    def claim(self) -> None:
        start_backend()

    def problems(self, common: DictConfig) -> Iterator[str]:
        keys = ("fp16", "bf16", "amp", "hmp", "memory_efficient_fp16", "memory_efficient_bf16")
        asked = [f"common.{key}" for key in keys if getattr(common, key)]
        if asked:
            off = " ".join(f"{key}=false" for key in asked)
            yield f"common.device is lazy, which computes in fp32 only, but {' and '.join(asked)} is true: set {off}."

    def count(self) -> int:
        return 1

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "conv2d"

    def _pos_conv_form(self, dtype: torch.dtype, width: int) -> str:
        return "conv1d"  # fewer operations than `blocks`

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "matmul"  # torch's backend has no fused attention

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Return an empty context: this device has fp32 only, and torch.autocast raises even if disabled.

        Raises:
            ValueError: `dtype` is not None.
        """
        if dtype is not None:
            raise ValueError(
                "common.device is lazy, which computes in fp32 only. Set common.fp16, bf16, amp and hmp to false, or "
                "use another device."
            )
        return contextlib.nullcontext()

    def full_precision(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def bf16_is_fast(self) -> bool:
        return False

    def mark_step(self) -> None:
        import torch._lazy

        graph_counts.counted_step(torch._lazy.mark_step)

    def synchronize(self) -> None:
        import torch._lazy

        self.mark_step()
        torch._lazy.wait_device_ops()

    def counters(self) -> dict[str, float]:
        counts = graph_counts.graph_counts()
        return {"graphs": counts.compiled, "cpu_fallbacks": sum(counts.fallbacks.values())}

    def describe(self) -> str:
        return f"torch's lazy-tensor device on the CPU, {torch.get_num_threads()} threads"


_started = False


def start_backend() -> None:
    """Register the device "lazy" in this process, once, with the operators that torch's backend lacks."""
    global _started
    if _started:
        return
    import torch._lazy.ts_backend

    from fairseq.device import lazy_operators

    torch._lazy.ts_backend.init()
    torch._register_device_module("lazy", ModuleType("torch.lazy"))  # torch.utils.checkpoint looks for it
    lazy_operators.register()
    _started = True
