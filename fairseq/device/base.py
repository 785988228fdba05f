"""The interface that every device implements, with the CPU's implementation."""

from __future__ import annotations

import copy
import functools
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from omegaconf import DictConfig


ONEDNN_IS_RIGHT = 16  # channels a group from which oneDNN's bf16 convolutions were right in all shapes tried


class Note(NamedTuple):
    """One line for the log."""

    text: str
    is_warning: bool = False


class Forms(NamedTuple):
    """Forms that override a device's own choice (`fairseq.device.forced`); None keeps the device's choice."""

    conv_form: str | None = None
    pos_conv_form: str | None = None
    attention_form: str | None = None
    hpu_arms: bool = False


class Device:
    """The interface between a run and its hardware; this class is the CPU.

    The `*_form` methods choose between forms of one computation that give equal results at different speeds. The
    choices come from measurements (benchmarks/results). While `torch.jit.trace` records, they choose torch's own
    operators: the other forms loop over lengths in Python, and the trace would keep those lengths as constants.
    """

    type = "cpu"
    collective_backend = "gloo"
    takes_hpu_arms = False
    graphs_are_static = False  # a changed Python branch costs a compilation
    recovers_from_out_of_memory = True  # the allocator works again once the update's tensors are freed
    records_graphs = False  # operations run only at `mark_step`; gradients are then zeroed in place
    # False if seeding makes the host wait: seed once per update; results then depend on the number of processes
    seeds_each_micro_batch = True
    statistics_dtype = torch.float64  # of the sums behind logged values
    index_dtype: torch.dtype | None = None  # of integer inputs on the device; None: unchanged
    has_fp16 = False  # has float16 kernels that are worth using
    # torch's CTC has no kernel here: log-probabilities are copied to the host, and their gradient back
    ctc_on_host = False
    copies_from_pinned_memory = False  # copies from pinned memory to the device are asynchronous
    dropout_form = "bits"  # or "native": torch's own
    torch_fuses_adam = True  # torch's fused AdamW has a kernel for this device
    # batched inference is faster; on CPU the activations of a single utterance fit the caches better
    gains_by_batches = False
    norms_mix_dtypes = True  # layer and group norm accept half-precision input with fp32 parameters, and sum in fp32
    compiles = False  # `compile` has an effect, and `common.hpu_compile` applies
    # under a launcher, `distributed_training.distributed_world_size` must equal the processes per node, as in the
    # published recipe for Gaudi; other devices ignore the key under a launcher, as fairseq does
    world_size_is_strict = False
    compares_with_recipe = False  # warn if a run is far from the published pre-training recipe
    forms = Forms()

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.notes: list[Note] = []  # from `prepare_process`

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.type)

    def claim(self) -> None:
        """Make this the process's current device, before anything is allocated."""

    def missing(self) -> str | None:
        """Return why this machine has no such device, and what to do; None if it has. Imports and opens nothing."""
        return None

    def problems(self, common: DictConfig) -> Iterator[str]:
        """What a config asks for that such a device cannot do, each with the keys to change. Asked before a run, on
        any machine, with the config group `common`.
        """
        yield from ()

    def count(self) -> int:
        """Number of processes that this machine can hold with one device each."""
        return available_cores()

    def recommended_count(self) -> int:
        """Number of processes that uses this machine well: one if a process uses all cores."""
        return 1

    # -- forms ---------------------------------------------------------------------------------------------------------

    def with_forms(self, forms: Forms) -> Device:
        """Return this device with these forms: itself if it has them, else a copy that shares what `claim` opened.

        Code on the path of a step only reads the device it got, so the hook costs nothing when nothing is forced.
        """
        if forms == self.forms:
            return self
        device = copy.copy(self)
        device.forms = forms
        device.takes_hpu_arms = forms.hpu_arms or type(self).takes_hpu_arms
        return device

    def conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        """Form of the feature extractor's convolutions.

        Returns:
            `conv1d`, `conv2d` (channels last) or `matmul` (time first, products of views).
        """
        return self.forms.conv_form or ("conv1d" if torch.jit.is_tracing() else self._conv_form(in_channels, dtype))

    def pos_conv_form(self, dtype: torch.dtype, width: int) -> str:
        """Form of the positional convolution.

        Args:
            width: channels of a group.
        Returns:
            `conv1d`, `conv2d` (channels last) or `blocks` (products of matrices, each for 8 frames).
        """
        return self.forms.pos_conv_form or ("conv1d" if torch.jit.is_tracing() else self._pos_conv_form(dtype, width))

    def attention_form(self, dtype: torch.dtype, needs_weights: bool = False) -> str:
        """Form of self-attention.

        Returns:
            `sdpa`, `vendor` (`fused_attention`), `blocks` (of heads, in cache) or `matmul` (returns weights).
        """
        if self.forms.attention_form is not None or needs_weights:
            return self.forms.attention_form or "matmul"
        return "sdpa" if torch.jit.is_tracing() else self._attention_form(dtype)

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "matmul"

    def _pos_conv_form(self, dtype: torch.dtype, width: int) -> str:
        if dtype != torch.bfloat16 or width == 1:
            return "conv1d"  # as an image, the gradient of the weight takes seconds in fp32
        # oneDNN's bf16 convolution is wrong with 3 to 15 channels a group and an even kernel of 8 or more on processors
        # with amx_bf16 (torch 2.13, as in pytorch/pytorch#163347): the output has no relation to the right one
        return "conv2d" if width >= ONEDNN_IS_RIGHT else "blocks"

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "blocks"

    # -- losses --------------------------------------------------------------------------------------------------------

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
        """Compute the CTC losses of the rows with weight 1.

        Args:
            log_probs: T x B x V, fp32, on this device.
            targets: B x U, padded with any number. Best on the host, like the arguments below: torch's kernels read
                lengths there.
            input_lengths, target_lengths: frames and units of each row, B.
            weights: float32, B: 1, or 0 for filler rows.
            zero_infinity: loss and gradient are 0 for rows whose units do not fit into their frames.
        Returns:
            Their sum, 0-dim, fp32; and the loss of each row without gradient, B, 0 for filler rows, or None if a
            vendor's kernel returns only the sum.
        """
        if self.ctc_on_host:
            log_probs, targets, weights = log_probs.cpu(), targets.cpu(), weights.cpu()
            input_lengths, target_lengths = input_lengths.cpu(), target_lengths.cpu()
        else:
            targets, weights = self.send(targets), self.send(weights)
        losses = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
        rows = torch.where(weights > 0, losses, 0)
        return rows.sum().to(self.torch_device), rows.detach().to(self.torch_device)

    # -- running -------------------------------------------------------------------------------------------------------

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Return the context for mixed precision over fp32 parameters; with None, computation is in fp32."""
        return torch.autocast(self.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def full_precision(self) -> AbstractContextManager[Any]:
        """Return the context that turns autocast off: operators run in the dtype of their tensors."""
        return torch.autocast(self.torch_device.type, enabled=False)

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype in which products of matrices of this dtype run: autocast's if it is on."""
        kind = self.torch_device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype

    def mark_step(self) -> None:
        """Run the operations recorded so far; does nothing on devices that do not record."""

    def seed(self, seed: int) -> None:
        """Seed torch's and numpy's default generators, after running the recorded operations (`mark_step`).

        Models draw the masks that no worker drew from numpy's. torch's lazy device draws numbers when a graph runs, so
        pending operations must run under the old seed. Gaudi's bridge draws one seed for each random operator when it
        is recorded, and again when a cached graph is replayed (`hpu_graphs`); there `mark_step` only keeps earlier
        operations, such as zeroing gradients, out of the next micro-batch's graph.
        """
        self.mark_step()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    def rng_state(self) -> dict[str, Tensor]:
        """State of the device's own generator, by its key in a saved state; empty if it uses torch's default."""
        return {}

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `rng_state` returned; entries of other devices are ignored."""

    def send(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor to the device without waiting for it; int64 becomes `index_dtype`."""
        if self.index_dtype is not None and tensor.dtype == torch.int64:
            tensor = tensor.to(self.index_dtype)
        return tensor.to(self.torch_device, non_blocking=True)

    def set_number(self, tensor: Tensor, number: float) -> None:
        """Copy a number that changes between updates into a 0-dim tensor of this device, without waiting.

        In Gaudi's lazy mode `tensor.fill_(number)` would put the number into the key of the compiled graph, and each
        value would compile a new graph; a copy is data.
        """
        tensor.copy_(torch.tensor(number, dtype=tensor.dtype), non_blocking=True)

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""

    def memory_statistics(self) -> dict[str, float]:
        """Free memory and the peak since the last call, in GB, for the log; empty if the device uses the host's."""
        return {}

    def counters(self) -> dict[str, float]:
        """Counts since the process started, for the log; empty if nothing is compiled.

        They include the number of graphs compiled and the seconds spent on it.
        """
        return {}

    def bf16_is_fast(self) -> bool:
        """Whether a model runs faster in bf16 than in fp32: on CPU, if the processor has bf16 products."""
        return "avx512_bf16" in cpu_flags() or "amx_bf16" in cpu_flags()

    def int8_is_missing(self) -> str | None:
        """Return why inference in 8-bit integers is not possible here; None if it is. Only the CPU supports it."""
        if self.torch_device.type != "cpu":
            return f"the device {self.type!r} does not support it, only the CPU does"
        if not cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            return "the processor has no products of 8-bit integers (avx512_vnni, avx_vnni or amx_int8)"
        if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
            return "this build of torch has no oneDNN products of 8-bit integers"
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error means that the device's memory is full."""
        return isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
        )

    def empty_cache(self) -> None:
        """Return cached memory from the allocator to the device."""

    # -- kernels of the device's vendor --------------------------------------------------------------------------------

    def fused_adam(self) -> type[torch.optim.Optimizer] | None:
        """Return an optimizer class with `fairseq.optim.adam.Adam`'s formula in one kernel; None: only torch's."""
        return None

    def fused_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """Form `vendor` of `fairseq.modules.attention.attend`; only devices with such a kernel choose it."""
        raise NotImplementedError(f"the device {self.type!r} has no attention kernel of a vendor")

    def fused_clip_norm(self, params: Sequence[Tensor], max_norm: float) -> Callable[[], Tensor] | None:
        """Return a function that clips these parameters' gradients in place; None if there is no such kernel.

        Args:
            max_norm: L2 norm over all gradients after clipping, at most.
        Returns:
            A function that returns the norm before clipping, 0-dim.
        """
        return None

    def compile(
        self, module: nn.Module, how: str, num_shapes: int, accumulates: bool, optimize_ddp: bool = True
    ) -> None:
        """Compile a module's forward and backward pass to graphs, in place; called only on devices with `compiles`.

        Args:
            how: `common.hpu_compile`.
            num_shapes: number of different sets of input shapes.
            accumulates: an update has several micro-batches.
            optimize_ddp: `common.hpu_optimize_ddp`.
        """

    # -- processes -----------------------------------------------------------------------------------------------------

    def ddp_options(self) -> dict[str, Any]:
        """Arguments of DistributedDataParallel for this device."""
        return {"device_ids": None}

    def loader_start_method(self) -> str | None:
        """Start method of data-loading workers; None: fork, also where Python's default is another one (3.14)."""
        return None

    def report(self) -> list[Note]:
        """Lines about the device's software for the log, once per run."""
        return self.notes

    def describe(self) -> str:
        """Describe the device in one phrase, for the log."""
        return f"CPU, {torch.get_num_threads()} threads"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Features of the processor, by Linux's names; empty if the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return frozenset(next((line for line in file if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return frozenset()


def processor_name() -> str:
    """Return the processor's model on Linux; elsewhere its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        found = ""
    return found or platform.processor() or platform.machine()


def available_cores() -> int:
    """Number of cores that this process can use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
