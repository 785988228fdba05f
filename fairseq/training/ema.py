"""A running average of a model's weights, kept on its device."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Optional, Union

import torch
from torch import Tensor, nn

from fairseq import checkpoint_utils
from fairseq.dataclass.checks import refuse
from fairseq.dataclass.configs import EMAConfig
from fairseq.distributed.sharding import plain, sharded_like

logger = logging.getLogger(__name__)


class EMA:
    """A running average: every `ema_update_freq` updates, average = decay * average + (1 - decay) * weights.

    Buffers are copied, not averaged; before `ema_start_update`, so are the weights. The state dict has the model's
    names and shapes, so the model can load it.

    Args:
        model: the model to average, without a distributed wrapper; of a sharded one, each process averages its shards.
        config: the config group `ema`.
        device: the average's device; None: that of each weight.
    Raises:
        ValueError: `ema_decay` or `ema_update_freq` is out of range, or the seed model does not fit.
    """

    def __init__(self, model: nn.Module, config: EMAConfig, device: Optional[Union[str, torch.device]] = None) -> None:
        refuse(config, "ema")
        self.config = config
        self.device = device
        self._steps = 0
        self._averaged = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
        self.params: OrderedDict[str, Tensor] = OrderedDict()
        self.reset(model)

    def reset(self, model: nn.Module) -> None:
        """Restart the average from `ema_seed_model`, or if that is not set, from the model's weights."""
        averaged = set(self._averaged)
        self.params = OrderedDict(
            (name, self._own_copy(value, name in averaged)) for name, value in model.state_dict().items()
        )
        if self.config.ema_seed_model is not None:
            self.load_state_dict(checkpoint_utils.load_ema_from_checkpoint(self.config.ema_seed_model)["model"])
            logger.info(f"running average: starts from the one in {self.config.ema_seed_model}")

    def _own_copy(self, value: Tensor, averaged: bool) -> Tensor:
        dtype = torch.float32 if averaged and self.config.ema_fp32 else value.dtype
        return value.detach().to(device=self.device or value.device, dtype=dtype, copy=True)

    def get_decay(self, updates: int) -> float:
        return self.config.ema_decay if updates >= self.config.ema_start_update else 0.0

    @torch.no_grad()
    def step(self, new_model: nn.Module, updates: Optional[int] = None) -> None:
        """Add the model's weights to the average, if an average is due at this update.

        Args:
            updates: number of updates done, including this one, so that a resumed run averages at the same updates;
                None: count the calls.
        """
        self._steps = self._steps + 1 if updates is None else updates
        if self._steps % self.config.ema_update_freq != 0:
            return
        decay, live = self.get_decay(self._steps), new_model.state_dict()
        averages = [plain(self.params[name]) for name in self._averaged]
        weights = [plain(live[name]).to(average) for name, average in zip(self._averaged, averages, strict=True)]
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, weights, alpha=1 - decay)
        for name in live.keys() - set(self._averaged):
            self.params[name].copy_(live[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights under the model's names: `extra_state["ema"]` of a checkpoint."""
        return OrderedDict(self.params)

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load an average of the same model, from whole tensors or shards.

        Raises:
            ValueError: names or shapes differ.
        """
        missing, unknown = self.params.keys() - state_dict.keys(), state_dict.keys() - self.params.keys()
        if missing or unknown:
            lacking = f"missing: {', '.join(sorted(missing))}" if missing else ""
            extra = f"unexpected: {', '.join(sorted(unknown))}" if unknown else ""
            raise ValueError(
                f"The averaged weights do not fit the model: {'; '.join(part for part in (lacking, extra) if part)}."
            )
        for name, average in self.params.items():
            if average.shape != state_dict[name].shape:
                shapes = f"{tuple(state_dict[name].shape)}, the model's has {tuple(average.shape)}"
                raise ValueError(f"The averaged weight {name} has shape {shapes}.")
            average.copy_(sharded_like(state_dict[name], average))

    def reverse(self, model: nn.Module) -> nn.Module:
        """Load the average into a model, for inference or fine-tuning, and return that model."""
        model.load_state_dict(self.state_dict())
        return model
