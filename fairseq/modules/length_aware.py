"""Keep padding from changing the output for an utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq.modules.run_mode import RunMode, configure


def set_length_aware(model: nn.Module, on: bool = True) -> None:
    """Make the output for an utterance independent of its batch (see RunMode.length_aware).

    The commands infer, transcribe and extract switch this on.
    """
    configure(model, RunMode(length_aware=on))


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Mask of the first `lengths` (B) frames of each row, bool, B x T.

    Each row has at least one valid frame, since a mean over none is NaN.
    """
    return torch.arange(num_frames, device=lengths.device) < lengths.clamp(min=1).unsqueeze(1)
