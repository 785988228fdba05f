"""Fused optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from habana_frameworks import recorder
from habana_frameworks.torch import core


class FusedAdamW(torch.optim.Optimizer):
    """The kernel's formula in fp32: decoupled decay, eps before the bias correction, one step count per group."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        moments_dtype: torch.dtype | None = None,
    ) -> None:
        recorder.note("FusedAdamW", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        if moments_dtype is not None:
            raise NotImplementedError("this stand-in keeps moments in the weights' dtype")
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bias_correction": bias_correction},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        recorder.note("FusedAdamW.step")
        loss = None if closure is None else closure()
        for group in self.param_groups:
            core.mark_step()
            if type(group["lr"]) is not float:
                raise TypeError("lr must be a float")
            weights = [p for p in group["params"] if p.grad is not None]
            if len({(p.dtype, p.device) for p in weights}) != 1:
                raise RuntimeError("a group must have parameters with gradients, of one dtype and device")
            group["step"] = group.get("step", 0) + 1
            for p in weights:
                if p.grad.is_sparse:
                    raise RuntimeError("FusedAdamW does not take sparse gradients")
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                _update(p, p.grad, state["exp_avg"], state["exp_avg_sq"], group)
        core.mark_step()
        return loss


def _update(p: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    size = group["lr"]
    if group["bias_correction"]:
        size *= math.sqrt(1 - beta2 ** group["step"]) / (1 - beta1 ** group["step"])
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.addcdiv_(exp_avg, exp_avg_sq.sqrt().add_(group["eps"]), value=-size)
