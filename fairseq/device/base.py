"""The contract that every device answers, with the CPU's answers."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Note(NamedTuple):
    """One line for the log."""

    text: str
    is_warning: bool = False


class Forms(NamedTuple):
    """Forms that replace a device's own choice (`fairseq.device.forced`); None leaves the choice to the device."""

    conv_form: str | None = None
    pos_conv_form: str | None = None
    attention_form: str | None = None
    hpu_arms: bool = False


class Device:
    """What a run asks of its hardware; this class is the CPU.

    The `*_form` methods choose between forms of one computation that give equal results at different speeds. The
    choices are measurements (benchmarks/results), not beliefs. A graph that `torch.jit.trace` records has torch's own
    operators: the other forms loop over lengths in Python, which the trace would keep as constants.
    """

    type = "cpu"
    collective_backend = "gloo"
    takes_hpu_arms = False
    graphs_are_static = False  # True where a changed Python branch costs a compilation
    recovers_from_out_of_memory = True  # the allocator can go on, once what the update held is let go
    records_graphs = False  # True where operations only run at `mark_step`; gradients are then zeroed in place
    # False where seeding makes the host wait: once an update then, and the processes' number matters
    seeds_each_micro_batch = True
    statistics_dtype = torch.float64  # of the sums that the log is made of
    index_dtype: torch.dtype | None = None  # what integer inputs are sent as; None: as they are
    has_fp16 = False  # float16 kernels and a reason to use them
    # torch's CTC has no kernel here: log-probabilities are fetched, and their gradient is sent back
    ctc_on_host = False
    copies_from_pinned_memory = False  # copies to the device need not wait for it if they start in pinned memory
    dropout_form = "bits"  # or "native": torch's own
    torch_fuses_adam = True  # torch's fused AdamW has a kernel for this device
    # inference of several utterances at once is faster; on CPU the activations of one fit the caches better
    gains_by_batches = False
    norms_mix_dtypes = True  # layer and group norm take half-precision input with fp32 parameters and sum in fp32
    compiles = False  # `compile` does something, and `common.hpu_compile` applies
    # under a launcher, `distributed_training.distributed_world_size` must equal the processes of a node, as in the
    # device's published recipe; elsewhere the key is ignored there, as in fairseq
    world_size_is_strict = False
    compares_with_recipe = False  # a run is measured against the published pre-training, and warned if it is far off
    forms = Forms()

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.notes: list[Note] = []  # what preparing the process brought up

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.type)

    def claim(self) -> None:
        """Make this the process's current device, before anything is allocated."""

    def missing(self) -> str | None:
        """What keeps this machine from having such a device, and the way out; None: nothing. Imports and opens
        nothing.
        """
        return None

    def problems(self, common: DictConfig) -> Iterator[str]:
        """What a config asks for that such a device cannot do, each with the keys to change. Asked before a run, on
        any machine, with the config group `common`.
        """
        yield from ()

    def count(self) -> int:
        """Processes that this machine can hold with one device each."""
        return available_cores()

    def recommended_count(self) -> int:
        """Processes that make good use of this machine: one, where a process uses all cores by itself."""
        return 1

    # -- forms ---------------------------------------------------------------------------------------------------------

    def with_forms(self, forms: Forms) -> Device:
        """This device with other forms: itself where it has them already, else a copy that shares what `claim` opened.

        Code that runs every step asks the device it got, so forcing a form costs nothing where nothing is forced.
        """
        if forms == self.forms:
            return self
        device = copy.copy(self)
        device.forms = forms
        device.takes_hpu_arms = forms.hpu_arms or type(self).takes_hpu_arms
        return device

    def conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        """Form of the feature extractor's convolutions: `conv1d`, `conv2d` (channels last) or `matmul` (time first,
        products of views).
        """
        return self.forms.conv_form or ("conv1d" if torch.jit.is_tracing() else self._conv_form(in_channels, dtype))

    def pos_conv_form(self, dtype: torch.dtype) -> str:
        """Form of the positional convolution: `conv1d`, `conv2d` (channels last) or `blocks` (products of matrices,
        each for 8 frames).
        """
        return self.forms.pos_conv_form or ("conv1d" if torch.jit.is_tracing() else self._pos_conv_form(dtype))

    def attention_form(self, dtype: torch.dtype, needs_weights: bool = False) -> str:
        """Form of self-attention: `sdpa`, `vendor` (`fused_attention`), `blocks` (of heads, in cache) or `matmul`
        (has weights).
        """
        if self.forms.attention_form is not None or needs_weights:
            return self.forms.attention_form or "matmul"
        return "sdpa" if torch.jit.is_tracing() else self._attention_form(dtype)

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "matmul"

    def _pos_conv_form(self, dtype: torch.dtype) -> str:
        # fp32: the gradient of a channels-last weight takes seconds
        return "conv2d" if dtype == torch.bfloat16 else "conv1d"

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
    ) -> Tensor:
        """CTC losses, summed over the rows that count; 0-dim, fp32.

        Args:
            log_probs: T x B x V, fp32, on this device.
            targets: B x U, filled up with any number; this and the following best on the host, where torch's kernels
                read lengths.
            input_lengths, target_lengths: frames and units of each row, B.
            weights: float32, B: 1, or 0 for rows that are filler.
            zero_infinity: rows whose units do not fit into their frames have loss and gradient 0.
        """
        if self.ctc_on_host:
            log_probs, targets, weights = log_probs.cpu(), targets.cpu(), weights.cpu()
            input_lengths, target_lengths = input_lengths.cpu(), target_lengths.cpu()
        else:
            targets, weights = self.send(targets), self.send(weights)
        losses = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
        return torch.where(weights > 0, losses, 0).sum().to(self.torch_device)

    # -- running -------------------------------------------------------------------------------------------------------

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Mixed precision over fp32 parameters; None computes in fp32."""
        return torch.autocast(self.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def full_precision(self) -> AbstractContextManager[Any]:
        """Within mixed precision, a part that computes in the dtype of its tensors."""
        return torch.autocast(self.torch_device.type, enabled=False)

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What a product of matrices of this dtype runs in: autocast's where it is on."""
        kind = self.torch_device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype

    def mark_step(self) -> None:
        """Hand the operations recorded so far to the device, where it records any."""

    def seed(self, seed: int) -> None:
        """Seed torch's default generators, and numpy's, from which a model draws the masks that no worker drew. What
        was recorded before is handed over first.

        torch's lazy device draws numbers when a graph runs, so what is pending must run under the old seed. Gaudi's
        bridge draws one seed for each random operator when the operator is recorded, and again when a kept graph is
        replayed (`hpu_graphs`); there the step only keeps what came before, such as gradients that were set to zero,
        out of the next micro-batch's graph.
        """
        self.mark_step()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    def rng_state(self) -> dict[str, Tensor]:
        """The state of the device's own generator, by the name that it has in a saved state; empty where torch's is
        the device's.
        """
        return {}

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `rng_state` gave; other devices' entries are passed over."""

    def send(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device, integers in `index_dtype`; the copy does not wait for the device."""
        if self.index_dtype is not None and tensor.dtype == torch.int64:
            tensor = tensor.to(self.index_dtype)
        return tensor.to(self.torch_device, non_blocking=True)

    def set_number(self, tensor: Tensor, number: float) -> None:
        """Give a 0-dim tensor of this device another value, by a copy that does not wait: for numbers that change
        between updates.

        `tensor.fill_(number)` would make the number part of the key of the compiled graph in Gaudi's lazy mode, so that
        each value is a graph to compile; a copy is data.
        """
        tensor.copy_(torch.tensor(number, dtype=tensor.dtype), non_blocking=True)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""

    def memory_statistics(self) -> dict[str, float]:
        """Gigabytes for the log: free now, and the peak since the last call; empty where the device has no memory
        of its own.
        """
        return {}

    def counters(self) -> dict[str, float]:
        """Counts for the log since the process began, such as graphs compiled and the seconds it took; empty where
        nothing is compiled.
        """
        return {}

    def bf16_is_fast(self) -> bool:
        """Whether a model runs faster in bf16 than in fp32: the processor has products of bf16."""
        return "avx512_bf16" in cpu_flags() or "amx_bf16" in cpu_flags()

    def int8_is_missing(self) -> str | None:
        """What keeps inference here from products of 8-bit integers; None: nothing. Only the CPU is offered it."""
        if self.torch_device.type != "cpu":
            return f"the device {self.type!r} is not offered it, only the CPU"
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
        """Give memory that the allocator keeps back to the device."""

    # -- kernels of the device's vendor --------------------------------------------------------------------------------

    def fused_adam(self) -> type[torch.optim.Optimizer] | None:
        """An optimizer class with the formula of `fairseq.optim.adam.Adam` in one kernel; None: there is none but
        torch's.
        """
        return None

    def fused_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """The form `vendor` of `fairseq.modules.attention.attend`, which only a device with such a kernel chooses."""
        raise NotImplementedError(f"{self.type} has no attention kernel of its own")

    def fused_clip_norm(self, params: Sequence[Tensor], max_norm: float) -> Callable[[], Tensor] | None:
        """A function that clips these parameters' gradients in place to an L2 norm and returns the norm before;
        None: there is none.
        """
        return None

    def compile(
        self, module: nn.Module, how: str, num_shapes: int, accumulates: bool, optimize_ddp: bool = True
    ) -> None:
        """Let a module's forward pass, and the backward pass of it, run as compiled graphs; in place. Only devices with
        `compiles` are asked for it.

        Args:
            how: `common.hpu_compile`.
            num_shapes: sets of input shapes that will come.
            accumulates: several micro-batches an update.
            optimize_ddp: `common.hpu_optimize_ddp`.
        """

    # -- processes -----------------------------------------------------------------------------------------------------

    def ddp_options(self) -> dict[str, Any]:
        """Arguments of DistributedDataParallel that depend on the device."""
        return {"device_ids": None}

    def loader_start_method(self) -> str | None:
        """How data-loading workers start; None: the platform's default."""
        return None

    def report(self) -> list[Note]:
        """What the log should say of the device's software, once a run."""
        return self.notes

    def describe(self) -> str:
        """One phrase for the log."""
        return f"CPU, {torch.get_num_threads()} threads"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's features by Linux's names; none where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return frozenset(next((line for line in file if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return frozenset()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
