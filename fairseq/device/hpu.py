"""Intel Gaudi (HPU). The only module that imports the vendor's package, when `claim` is called and not before."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from fairseq.device import hpu_environment as environment
from fairseq.device.base import Device, Note

VENDOR = "habana_frameworks"
CARDS_OF_A_SERVER = 8
ABSENT = (
    f"common.hpu needs Intel's package {VENDOR}, which is not installed here. It comes with Intel's "
    "container images for Gaudi, not from PyPI: install this project inside one with `pip install --editable .[hpu]`. "
    "For a dry run on this machine type fairseq-preflight with the same arguments; to train here, common.hpu=false."
)
OUT_OF_MEMORY = "MODULE:PT_DEVMEM Allocation failed"


class HpuDevice(Device):
    """A card; one process has one, by the name `hpu` and the number 0.

    In lazy mode operations are recorded and run as a compiled graph at `mark_step`; in eager mode they run one by one. Forms are chosen
    by what the bridge has kernels for: nothing here was measured on a card.
    """

    type = "hpu"
    collective_backend = "hccl"
    takes_hpu_arms = True
    graphs_are_static = True
    statistics_dtype = torch.float32  # a float64 is one on the card, whatever its name
    index_dtype = torch.int32  # an int64 is one in lazy mode, and sending it checks its range on the host
    dropout_form = "native"
    norms_mix_dtypes = False

    @property
    def records_graphs(self) -> bool:
        return environment.is_lazy(os.environ)

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self._tensors_live_on)

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._core: Any = None
        self._tensors_live_on = "hpu"

    def claim(self) -> None:
        """Import the vendor's package in this process, whose environment has been prepared (`hpu_environment.prepare`)."""
        if self._core is not None:
            return
        from habana_frameworks import torch as vendor
        from habana_frameworks.torch import core

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import habana_frameworks.torch.distributed.hccl  # noqa: F401 - registers the collective backend
        self._core = core
        self._tensors_live_on = getattr(vendor, "TENSOR_DEVICE", "hpu")  # a stand-in's live elsewhere

    def missing(self) -> str | None:
        return None if importlib.util.find_spec(VENDOR) is not None else ABSENT

    def count(self) -> int:
        """Cards of this machine, without opening one; a server's where that cannot be seen."""
        visible = environment.visible_modules(os.environ)
        if visible:
            return len(visible)
        nodes = [path for pattern in ("accel/accel[0-9]*", "hl[0-9]*") for path in Path("/dev").glob(pattern)]
        return len(nodes) or CARDS_OF_A_SERVER

    # -- forms ---------------------------------------------------------------------------------------------------------------------

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "conv2d"

    def _pos_conv_form(self, dtype: torch.dtype) -> str:
        return "conv1d"

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "matmul"

    # -- running -------------------------------------------------------------------------------------------------------------------

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        return torch.autocast(self.torch_device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def mark_step(self) -> None:
        if self.records_graphs:
            self._core.mark_step()

    def synchronize(self) -> None:
        torch.hpu.synchronize()

    def memory_statistics(self) -> dict[str, float]:
        free, _ = torch.hpu.mem_get_info()
        peak = torch.hpu.max_memory_allocated()
        torch.hpu.reset_peak_memory_stats()
        return {"gb_free": round(free / 2**30, 1), "gb_peak": round(peak / 2**30, 1)}

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, RuntimeError) and OUT_OF_MEMORY in str(error)

    # -- processes -----------------------------------------------------------------------------------------------------------------

    def loader_start_method(self) -> str | None:
        return "forkserver"  # a fork of a process that has opened a card is undefined

    def report(self) -> list[Note]:
        versions = environment.check_versions(environment.software_version(), torch.__version__)
        return [*self.notes, *versions, environment.in_effect(os.environ)]

    def describe(self) -> str:
        mode = "lazy" if self.records_graphs else "eager"
        return f"HPU {self.index}, {torch.hpu.get_device_name()}, software {environment.software_version()}, {mode} mode"

