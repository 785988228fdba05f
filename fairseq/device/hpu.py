"""Intel Gaudi (HPU). Only this module imports the vendor's package, and only when `claim` is called."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.device import hpu_environment as environment
from fairseq.device.base import Device, Note

VENDOR = "habana_frameworks"
CARDS_OF_A_SERVER = 8
ABSENT = (
    f"common.hpu=true needs Intel's package {VENDOR}, which is not installed here. It comes with Intel's container "
    "images for Gaudi, not from PyPI: run `pip install --editable .[hpu]` inside one. To check the run on this "
    "machine, run fairseq-preflight with the same arguments. To train on this machine, set common.hpu=false."
)
OUT_OF_MEMORY = "MODULE:PT_DEVMEM Allocation failed"


class HpuDevice(Device):
    """One Gaudi card, used by one process as `hpu:0`.

    In lazy mode operations are recorded and run as a compiled graph at `mark_step`; in eager mode they run one by one.
    Forms are chosen by the kernels that the bridge has; nothing here was measured on a card.
    """

    type = "hpu"
    collective_backend = "hccl"
    takes_hpu_arms = True
    graphs_are_static = True
    statistics_dtype = torch.float32  # the card computes float64 as float32
    index_dtype = torch.int32  # lazy mode stores int64 as int32, after checking its range on the host
    dropout_form = "native"
    norms_mix_dtypes = False
    gains_by_batches = True
    torch_fuses_adam = False
    ctc_on_host = True  # if the vendor's kernel is missing: torch's would be compiled again for each set of lengths
    # the pool takes all of the card's memory at the start, and cannot return any
    recovers_from_out_of_memory = False
    compiles = True
    world_size_is_strict = True
    compares_with_recipe = True

    @property
    def records_graphs(self) -> bool:
        return environment.is_lazy(os.environ)

    @property
    def seeds_each_micro_batch(self) -> bool:
        return self.records_graphs  # in eager mode `torch.manual_seed` waits until the bridge's pipeline is empty

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self._tensors_live_on)

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._core: Any = None
        self._attention: Any = None  # the vendor's attention kernel, if this release has it
        self._tensors_live_on = "hpu"

    def claim(self) -> None:
        """Import the vendor's package in this process; `hpu_environment.prepare` must have run.

        Raises:
            ValueError: lazy mode on stock PyTorch.
        """
        if self._core is not None:
            return
        if (refusal := environment.stock_torch_in_lazy_mode(os.environ, torch.__version__)) is not None:
            raise ValueError(refusal)
        from habana_frameworks import torch as vendor
        from habana_frameworks.torch import core

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import habana_frameworks.torch.distributed.hccl  # noqa: F401 - registers the collective backend
        self._core = core
        self._attention = _import("habana_frameworks.torch.hpex.kernels", "FusedSDPA")
        self._tensors_live_on = getattr(vendor, "TENSOR_DEVICE", "hpu")  # the tests' fake has others

    def missing(self) -> str | None:
        return None if importlib.util.find_spec(VENDOR) is not None else ABSENT

    def count(self) -> int:
        """Number of cards of this machine, counted without opening one; 8 if they cannot be listed."""
        visible = environment.visible_modules(os.environ)
        if visible:
            return len(visible)
        nodes = [path for pattern in ("accel/accel[0-9]*", "hl[0-9]*") for path in Path("/dev").glob(pattern)]
        return len(nodes) or CARDS_OF_A_SERVER

    def recommended_count(self) -> int:
        return max(1, self.count())

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "conv2d"

    def _pos_conv_form(self, dtype: torch.dtype, width: int) -> str:
        return "conv1d"  # 1/17 fewer operations than `blocks` for 128 taps; neither was measured on a card

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "matmul" if self._attention is None else "vendor"

    # -- running -------------------------------------------------------------------------------------------------------

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        return torch.autocast(self.torch_device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def mark_step(self) -> None:
        if self.records_graphs:
            self._core.mark_step()

    def rng_state(self) -> dict[str, Tensor]:
        return {"hpu_rng_state": _card().get_rng_state()} if self._core is not None else {}

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """Restore the generator's state, after running the recorded operations."""
        if "hpu_rng_state" in state and self._core is not None:
            self.mark_step()
            _card().set_rng_state(state["hpu_rng_state"])

    def synchronize(self) -> None:
        _card().synchronize()

    def memory_statistics(self) -> dict[str, float]:
        free, _ = _card().mem_get_info()
        peak = _card().max_memory_allocated()
        _card().reset_peak_memory_stats()
        return {"gb_free": round(free / 2**30, 1), "gb_peak": round(peak / 2**30, 1)}

    def counters(self) -> dict[str, float]:
        """Graphs compiled, seconds spent on it, and operators that ran on the host, as counted by the bridge."""
        metric_global = _import("habana_frameworks.torch.hpu.metrics", "metric_global")
        counts: dict[str, float] = {}
        for name, metric_name in (
            ("hpu_graph_compilations", "graph_compilation"),
            ("hpu_cpu_fallbacks", "cpu_fallback"),
        ):
            metric = None if metric_global is None else metric_global(metric_name)
            if metric is not None:
                stats = dict(metric.stats())
                counts[name] = int(stats["TotalNumber"])
                if "TotalTime" in stats:  # microseconds
                    counts["hpu_compile_seconds"] = int(stats["TotalTime"]) / 1e6
        return counts

    def bf16_is_fast(self) -> bool:
        return True

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, RuntimeError) and OUT_OF_MEMORY in str(error)

    # -- kernels of the device's vendor --------------------------------------------------------------------------------

    def fused_adam(self) -> type[torch.optim.Optimizer] | None:
        """Habana's FusedAdamW: decoupled decay and eps before the bias correction, as in fairseq's Adam."""
        return _import("habana_frameworks.torch.hpex.optimizers", "FusedAdamW")

    def fused_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        if mask is not None:
            # B x 1 x T x T', as the kernel's other users pass it
            mask = mask.expand(q.size(0), -1, q.size(2), k.size(2))
        return self._attention.apply(q, k, v, mask, dropout)  # an autograd function takes positional arguments

    def fused_clip_norm(self, params: Sequence[Tensor], max_norm: float) -> Callable[[], Tensor] | None:
        kernel = _import("habana_frameworks.torch.hpex.normalization", "FusedClipNorm")
        if kernel is None:
            return None
        clipper = kernel(params, max_norm)
        return lambda: clipper.clip_norm(params).reshape(())  # from a vector of one number to 0-dim

    def ctc_loss(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
        weights: Tensor,
        blank: int = 0,
        zero_infinity: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the loss with the vendor's kernel, which only sums, or on the host if this release has none.

        The kernel takes lengths on the device and keeps shapes static. Filler rows are passed with log-probabilities of
        0 and without units, so that their loss and gradient are 0.
        """
        kernel = self._ctc_kernel()
        if kernel is None:
            return super().ctc_loss(log_probs, targets, input_lengths, target_lengths, weights, blank, zero_infinity)
        counts = self.send(weights) > 0
        log_probs = torch.where(counts.view(1, -1, 1), log_probs, 0)
        units = torch.where(counts, self.send(target_lengths), 0)
        lengths = self.send(input_lengths)
        return kernel.apply(log_probs, self.send(targets), lengths, units, blank, "sum", zero_infinity), None

    def _ctc_kernel(self) -> Any:
        """Habana's CTCLoss, an autograd function with positional arguments; None if this release has none."""
        return _import("habana_frameworks.torch.hpex.kernels", "CTCLoss")

    def compile(
        self, module: nn.Module, how: str, num_shapes: int, accumulates: bool, optimize_ddp: bool = True
    ) -> None:
        if how == "hpu_graphs":
            _card().ModuleCacher(max_graphs=num_shapes)(
                model=module, inplace=True, allow_unused_input=True, have_grad_accumulation=accumulates
            )
        elif how == "compile":
            from torch._dynamo import config

            # one graph per shape, in training and evaluation; beyond its limit torch silently runs uncompiled
            config.cache_size_limit = max(config.cache_size_limit, 2 * num_shapes)
            if not environment.compiles_autograd(os.environ):  # it needs and sets DDP's reducer in Python
                config.optimize_ddp = optimize_ddp
            module.compile(backend="hpu_backend", dynamic=False)

    # -- processes -----------------------------------------------------------------------------------------------------

    def ddp_options(self) -> dict[str, Any]:
        """Arguments of DistributedDataParallel that apply if the config has its defaults.

        Few large all-reduces, as each cuts the graph, and no second copy of the gradients.
        """
        return {"device_ids": None, "bucket_cap_mb": 230, "gradient_as_bucket_view": True, "broadcast_buffers": False}

    def loader_start_method(self) -> str | None:
        return "forkserver"  # forking a process that has opened a card is undefined behaviour

    def report(self) -> list[Note]:
        versions = environment.check_versions(environment.software_version(), torch.__version__)
        return [*self.notes, *versions, environment.in_effect(os.environ)]

    def describe(self) -> str:
        mode = "lazy" if self.records_graphs else "eager"
        return f"HPU {self.index}, {_card().get_device_name()}, software {environment.software_version()}, {mode} mode"


def _card() -> Any:
    """Return `torch.hpu`, which exists once the vendor's package is imported."""
    extended: Any = torch
    return extended.hpu


def _import(module: str, name: str) -> Any:
    """Return a name from a module of the vendor's package; None if this release has no such module or name."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
