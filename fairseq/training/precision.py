"""Mixed precision: torch's autocast over fp32 parameters, and a loss scale for fp16 on the device."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from fairseq.dataclass.common_config import CommonConfig
from fairseq.device import Device

logger = logging.getLogger(__name__)

_FP16_KEYS = ("fp16", "memory_efficient_fp16", "amp")
_BF16_KEYS = ("bf16", "memory_efficient_bf16", "hmp")


class Precision:
    """The dtype of a run's computations, and the loss scale that keeps fp16 gradients from underflowing.

    Args:
        common: the `common` config. `fp16`, `memory_efficient_fp16` and `amp` mean autocast to fp16 with a loss scale;
            `bf16`, `memory_efficient_bf16` and `hmp` mean autocast to bf16, on HPU by op lists. On a device without
            fp16, fp16 runs in bf16 and is logged.
        updates_per_window: updates without overflow after which the scale doubles, if `common.fp16_scale_window` is not
            set.
    """

    def __init__(self, common: CommonConfig, device: Device, updates_per_window: int) -> None:
        self.device = device
        self.dtype = self._choose(common)
        self.scaler: LossScale | None = None
        if self.dtype == torch.float16:
            window = common.fp16_scale_window or updates_per_window
            init = common.amp_init_scale if common.amp else common.fp16_init_scale
            self.scaler = LossScale(device.torch_device, init, window, common.min_loss_scale)

    def _choose(self, common: CommonConfig) -> torch.dtype | None:
        asked_fp16 = [key for key in _FP16_KEYS if getattr(common, key)]
        if any(getattr(common, key) for key in _BF16_KEYS):
            return torch.bfloat16
        if not asked_fp16:
            return None
        if self.device.has_fp16:
            return torch.float16
        logger.info("common.%s: not supported on this device; using bf16 autocast instead", asked_fp16[0])
        return torch.bfloat16

    def autocast(self) -> AbstractContextManager[Any]:
        return self.device.autocast(self.dtype)

    def scale(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else loss * self.scaler.scale

    def name(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


class LossScale:
    """A dynamic loss scale in two device tensors; no update reads them on the host.

    An update whose gradient overflows halves it; `window` updates without overflow double it. `check` (at the log
    interval) stops a run whose scale fell below `minimum`: the loss itself is probably not finite.
    """

    def __init__(self, device: torch.device, init: float, window: int, minimum: float) -> None:
        self.scale = torch.tensor(float(init), device=device)
        self.good_updates = torch.zeros((), device=device)
        self.window = window
        self.minimum = minimum

    @torch.no_grad()
    def update(self, found_inf: Tensor) -> None:
        overflow = found_inf > 0
        good = torch.where(overflow, torch.zeros_like(self.good_updates), self.good_updates + 1)
        grow = good >= self.window
        factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale.mul_(factor)
        self.good_updates.copy_(torch.where(grow, torch.zeros_like(good), good))

    def check(self, scale: float) -> None:
        """Stop a run whose loss scale became too small.

        Raises:
            FloatingPointError: the scale fell below `common.min_loss_scale`.
        """
        if scale < self.minimum:
            raise FloatingPointError(
                f"the fp16 loss scale fell to {scale:g}, below common.min_loss_scale={self.minimum:g}: the loss is "
                "probably exploding. Lower optimization.lr, warm up longer, set optimization.clip_norm, or train "
                "with common.bf16=true common.fp16=false."
            )

    def state_dict(self) -> dict[str, float]:
        return {"scale": float(self.scale), "good_updates": float(self.good_updates)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale.fill_(state["scale"])
        self.good_updates.fill_(state["good_updates"])
