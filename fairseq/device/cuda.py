"""NVIDIA (and ROCm) GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairseq.device.base import Device


class CudaDevice(Device):
    """One GPU, used by one process."""

    type = "cuda"
    collective_backend = "nccl"
    has_fp16 = True
    copies_from_pinned_memory = True
    dropout_form = "native"
    norms_mix_dtypes = False
    gains_by_batches = True

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", self.index)

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "conv1d"

    def _pos_conv_form(self, dtype: torch.dtype, width: int) -> str:
        return "conv1d"

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "sdpa"

    def missing(self) -> str | None:
        if torch.cuda.device_count() > 0:
            return None
        return (
            "common.device is cuda (--device cuda), but torch finds no GPU on this machine. Use cpu, or leave the "
            "option out."
        )

    def claim(self) -> None:
        present = torch.cuda.device_count()
        if self.index >= present:
            raise ValueError(
                f"local rank {self.index} has no GPU: torch finds {present} on this machine. Start at most {present} "
                f"processes here (distributed_training.distributed_world_size={present}, or "
                f"--nproc_per_node={present})."
            )
        torch.cuda.set_device(self.index)

    def count(self) -> int:
        return torch.cuda.device_count()

    def recommended_count(self) -> int:
        return max(1, self.count())

    def rng_state(self) -> dict[str, Tensor]:
        return {"cuda_rng_state": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        if "cuda_rng_state" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng_state"])

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def memory_statistics(self) -> dict[str, float]:
        free, _ = torch.cuda.mem_get_info(self.index)
        peak = torch.cuda.max_memory_allocated(self.index)
        torch.cuda.reset_peak_memory_stats(self.index)
        return {"gb_free": round(free / 2**30, 1), "gb_peak": round(peak / 2**30, 1)}

    def bf16_is_fast(self) -> bool:
        return torch.cuda.is_bf16_supported(including_emulation=False)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, torch.OutOfMemoryError) or super().is_out_of_memory(error)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def ddp_options(self) -> dict[str, Any]:
        return {"device_ids": [self.index]}

    def describe(self) -> str:
        return f"GPU {self.index}, {torch.cuda.get_device_name(self.index)}"
