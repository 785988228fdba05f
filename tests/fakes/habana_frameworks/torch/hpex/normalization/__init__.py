"""Gradient clipping in one kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from habana_frameworks import recorder
from habana_frameworks.torch import core


class FusedClipNorm:
    def __init__(self, parameters: Iterable[Tensor], max_norm: float) -> None:
        parameters = list(parameters)
        recorder.note("FusedClipNorm", parameters=len(parameters), max_norm=max_norm)
        self.max_norm = torch.tensor([max_norm], dtype=parameters[0].dtype, device=parameters[0].device)

    @torch.no_grad()
    def clip_norm(self, parameters: Iterable[Tensor]) -> Tensor:
        recorder.note("FusedClipNorm.clip_norm")
        core.mark_step()
        grads = [p.grad for p in parameters if p.grad is not None]
        if not grads:
            return torch.tensor(0.0)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads])).view(1)
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factor)
        core.mark_step()
        return norm
