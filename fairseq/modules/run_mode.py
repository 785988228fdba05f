"""How a model runs: settings of the caller that do not change its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True)
class RunMode:
    """Settings; None leaves one unchanged.

    Defaults of a new model: static_graph=False, looks_for_padding=True, length_aware=False, pads_to_multiple=True.

    Attributes:
        static_graph: every training pass runs the same operations and produces a gradient for every trained parameter.
            Devices that record graphs and processes that exchange gradients need that. A block dropped by layerdrop is
            computed and multiplied by 0.
        looks_for_padding: in feature extraction, read the padding mask on the host and return None if it marks no
            padding. If False, nothing waits for the device.
        length_aware: an utterance's output does not depend on the batch it is in. fairseq's models include padding in
            the base extractor's group norm, and in the input of the conformer's depthwise and the stacked positional
            convolutions. Weights were trained that way, so training does the same.
        pads_to_multiple: the encoder pads frames to a multiple of `model.required_seq_len_multiple`.
    """

    static_graph: bool | None = None
    looks_for_padding: bool | None = None
    length_aware: bool | None = None
    pads_to_multiple: bool | None = None


@runtime_checkable
class HasChoices(Protocol):
    """A module with such settings."""

    def take_run_mode(self, mode: RunMode) -> None:
        """Apply this module's own settings; `configure` calls its submodules."""
        ...


def configure(model: nn.Module, mode: RunMode) -> None:
    """Pass the settings to every module of a model that has some."""
    for module in model.modules():
        if isinstance(module, HasChoices):
            module.take_run_mode(mode)
