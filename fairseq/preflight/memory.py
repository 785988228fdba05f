"""Lower bound of a training step's memory on the card: kept activations, parameters, gradients, optimizer state.

The forward pass runs on fake tensors, which have shapes and dtypes but no values and no memory, so the config's full
size is measured in a fraction of a second per shape. Each storage that autograd keeps is counted once, as the CPU's
autograd keeps it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq import utils
from fairseq.models import BaseFairseqModel
from fairseq.modules.checkpoint_activations import unwrap_checkpoint


class Activations(NamedTuple):
    """Bytes that are kept between forward and backward."""

    kept: int
    # with model.checkpoint_activations: the blocks' inputs, and the activations of one block; None: no such blocks
    recomputed: int | None


class _Storages:
    """Storages that autograd saved, each counted once, by the block that saved them."""

    def __init__(self, excluded: set[int]) -> None:
        self.excluded = excluded
        self.bytes: dict[int, int] = {}
        self.outside: set[int] = set()  # saved outside of blocks
        self.blocks: list[set[int]] = []
        self.inputs: set[int] = set()
        self.current: set[int] | None = None
        self._alive: list[Tensor] = []  # no address is reused while these exist

    def add(self, tensor: Tensor, into: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.excluded:
            self._alive.append(tensor.detach())
            self.bytes[storage._cdata] = storage.nbytes()
            into.add(storage._cdata)

    def pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor, self.outside if self.current is None else self.current)
        return tensor

    def total(self, keys: set[int]) -> int:
        return sum(self.bytes[key] for key in keys)

    @contextlib.contextmanager
    def watching(self, blocks: list[nn.Module]) -> Iterator[None]:
        """Attribute saved storages to the block that saves them, within the context."""

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.current = set()
            self.blocks.append(self.current)
            utils.apply_to_sample(lambda tensor: self.add(tensor, self.inputs), [args, kwargs])

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.current = None

        handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
        handles += [block.register_forward_hook(leave) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class HostReadsAsOne(TorchDispatchMode):
    """Replace values that a step reads on the host by 1: fake tensors have none, and shapes seldom depend on them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        return func(*args, **(kwargs or {}))


class MemoryMeter:
    """Measure steps of a model and criterion on fake tensors.

    Args:
        build: builds the model; called in fake mode. Checkpointed blocks are unwrapped, and counted both ways.
        criterion: called as criterion(model, sample).
    """

    def __init__(self, build: Callable[[], nn.Module], criterion: nn.Module) -> None:
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)  # a pre-trained model is read from its file
        with self.fake:
            self.model = build()
        self.blocks = [module for module in self.model.modules() if hasattr(module, "precheckpoint_forward")]
        unwrap_checkpoint(self.model)
        for module in self.model.modules():
            if hasattr(module, "layerdrop"):
                # devices with static graphs compute all blocks; the flags are drawn on the host
                setattr(module, "layerdrop", 0.0)  # noqa: B010 - not every module has it
        if isinstance(self.model, BaseFairseqModel):
            with self.fake:
                self.model.set_num_updates(0)  # as a trainer does before its first step
        self.criterion = criterion

    def activations(self, sample: Mapping[str, Any], dtype: torch.dtype | None) -> Activations:
        """Measure one batch in autocast to `dtype` (None: fp32). The sample's tensors are real."""
        fakes = utils.apply_to_sample(self.fake.from_tensor, sample["net_input"])
        with self.fake, HostReadsAsOne():
            return count(self.model, self.criterion, {**sample, "net_input": fakes}, dtype, self.blocks)


def count(
    model: nn.Module,
    criterion: nn.Module,
    sample: Mapping[str, Any],
    dtype: torch.dtype | None,
    blocks: list[nn.Module],
) -> Activations:
    """Run one forward pass in training mode and count what it keeps for backward; on fake or real tensors."""
    constant = [*model.parameters(), *model.buffers(), *criterion.parameters()]
    storages = _Storages({tensor.untyped_storage()._cdata for tensor in constant})
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(storages.pack, lambda tensor: tensor),
        storages.watching(blocks),
        torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        loss, _, _ = criterion(model, sample)
        del loss
    everything = storages.outside.union(*storages.blocks)
    if not blocks:
        return Activations(storages.total(everything), None)
    stays = storages.outside | storages.inputs
    largest = max(storages.total(block - stays) for block in storages.blocks)
    return Activations(storages.total(everything), storages.total(stays) + largest)


def bytes_of_negatives(rows: int, masked: int, num_negatives: int, width: int) -> int:
    """Bytes of the (N+1) x B x M x C tensor of fp32 candidates, which the similarity matrix avoids."""
    return (num_negatives + 1) * rows * masked * width * 4
