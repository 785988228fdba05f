"""Whether padding may change what a model makes of an utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq.modules.run_mode import RunMode, configure


def set_length_aware(model: nn.Module, on: bool = True) -> None:
    """Let an utterance's output be the same whatever batch it lies in, from now on (see RunMode). Commands that read
    utterances for their own sake (infer, transcribe, extract) switch this on.
    """
    configure(model, RunMode(length_aware=on))


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """bool, B x T: the first `lengths` (B) of each row's frames; at least one, since a mean over nothing at all is
    NaN.
    """
    return torch.arange(num_frames, device=lengths.device) < lengths.clamp(min=1).unsqueeze(1)
