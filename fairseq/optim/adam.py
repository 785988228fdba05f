"""`adam` as in fairseq: decoupled weight decay, epsilon outside the bias correction; fused where possible."""

import ast
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II
from torch import Tensor

from fairseq import device as device_layer
from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam_update import Adam
from fairseq.optim.fairseq_optimizer import learning_rates
from fairseq.optim.vendor_adam import VendorAdam

logger = logging.getLogger(__name__)


@dataclass
class FairseqAdamConfig(FairseqDataclass):
    adam_betas: Any = field(
        default=(0.9, 0.999),
        metadata={"help": 'decay rates of the two averages: [0.9, 0.98], or the text "(0.9, 0.98)"'},
    )
    adam_eps: float = field(
        default=1e-8, metadata={"help": "added to the square root of the second average, before bias correction"}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "share of a weight, times lr, that an update subtracts"})
    use_old_adam: bool = field(
        default=False, metadata={"help": "use plain operations instead of torch's fused kernel (the same update)"}
    )
    use_fused: Any = field(
        default="auto",
        metadata={
            "help": "the device's fused kernel: auto (if there is one), true (or an error), false (plain operations)"
        },
    )
    fp16_adam_stats: bool = field(
        default=False,
        metadata={"help": "not supported: the averages have the parameters' precision", "refused": True},
    )
    tpu: bool = II("common.tpu")
    lr: list[float] = II("optimization.lr")

    def check(self) -> Iterator[Finding]:
        if str(self.use_fused).lower() not in ("auto", "true", "false"):
            yield wrong(f"optimizer.use_fused is {self.use_fused!r}: it must be auto, true or false.", "optimisation")
        try:
            parse_betas(self.adam_betas)
        except ValueError as error:
            yield wrong(str(error), "optimisation")


def parse_betas(betas: Any) -> tuple[float, float]:
    """Parse two numbers in [0, 1) from a sequence or from text such as "(0.9, 0.98)".

    Raises:
        ValueError: anything else.
    """
    problem = f"optimizer.adam_betas is {betas!r}: it must be two numbers from 0 to below 1, such as (0.9, 0.98)."
    try:
        first, second = ast.literal_eval(betas) if isinstance(betas, str) else betas
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(problem) from None
    for beta in (first, second):
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
            raise ValueError(problem)
    return float(first), float(second)


@register_optimizer("adam", dataclass=FairseqAdamConfig)
class FairseqAdam(FairseqOptimizer):
    """Adam with decoupled weight decay (AdamW).

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; eps as in fairseq/optim/adam.py.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        self._optimizer = self._build(list(params))

    def _build(self, params: list[Tensor]) -> Adam:
        """Build the torch optimizer: with the device's fused kernel, or with plain operations."""
        choice = str(self.cfg.use_fused).lower()
        device = device_layer.of(params[0]) if params else device_layer.get("cpu")
        kernel = device.fused_adam()
        if choice == "true" and kernel is None and not device.torch_fuses_adam:
            raise ValueError(
                f"optimizer.use_fused=true, but {device.type} has no fused Adam here. Set it to auto or false."
            )
        if choice == "false" or self.cfg.use_old_adam:
            return Adam(params, fused=False, **self.optimizer_config)
        if kernel is not None:
            return VendorAdam(params, kernel, **self.optimizer_config)
        return Adam(params, fused=device.torch_fuses_adam, **self.optimizer_config)

    @property
    def uses_vendor_kernel(self) -> bool:
        return type(self._optimizer) is not Adam

    @property
    def optimizer_config(self) -> dict[str, Any]:
        return {
            "lr": learning_rates(self.cfg.lr)[0],
            "betas": parse_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Optional[dict[str, Any]] = None) -> None:
        for key, now in self.optimizer_config.items():
            before = state_dict["param_groups"][0].get(key, now)
            if key != "lr" and (tuple(before) if key == "betas" else before) != now:
                logger.info(f"optimizer {key}: {now} from here on (the checkpoint was trained with {before})")
        super().load_state_dict(state_dict, optimizer_overrides)
