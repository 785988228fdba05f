"""How a model runs: choices of whoever runs it, which change neither its weights nor what it has learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True)
class RunMode:
    """The choices. None leaves a choice as it is; a new model has static_graph=False, looks_for_padding=True,
    length_aware=False, pads_to_multiple=True.

    Attributes:
        static_graph: every training pass runs the same operations and gives every trained parameter a gradient, as
            devices that keep graphs and processes that exchange gradients need it. A block that layerdrop drops is
            computed and multiplied by 0.
        looks_for_padding: where features are extracted, read the padding mask on the host and return None if it marks
            nothing. Without it nothing waits for the device.
        length_aware: an utterance's output is the same whatever batch it is in. Upstream's models take the base
            extractor's group norm over padding too, and let the conformer's depthwise and the stacked positional
            convolutions see it; weights were trained so, and training keeps to it.
        pads_to_multiple: the encoder fills frames up to `model.required_seq_len_multiple`.
    """

    static_graph: bool | None = None
    looks_for_padding: bool | None = None
    length_aware: bool | None = None
    pads_to_multiple: bool | None = None


@runtime_checkable
class HasChoices(Protocol):
    """A module that has such choices."""

    def take_run_mode(self, mode: RunMode) -> None:
        """Keep this module's own choices; the modules inside it get theirs from `configure`."""
        ...


def configure(model: nn.Module, mode: RunMode) -> None:
    """Give the choices to every module of a model that has some."""
    for module in model.modules():
        if isinstance(module, HasChoices):
            module.take_run_mode(mode)
