"""The base class of criterions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from fairseq.data.batch import Batch
from fairseq.dataclass.checks import refuse


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel wrapper, which hides its methods."""
    return cast(nn.Module, model.module) if hasattr(model, "module") else model


class FairseqCriterion(nn.Module):
    """A loss over a model's output, and the values to log.

    The arguments of a subclass's `__init__` are config fields; `build_criterion` passes them by name.
    """

    def __init__(self, task: Any = None) -> None:
        super().__init__()
        self.task = task
        dictionary = None if task is None else task.target_dictionary
        self.padding_idx = dictionary.pad() if dictionary is not None else -100

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any = None) -> FairseqCriterion:
        """Build a criterion with the arguments `task`, `cfg` and, by name, the config's fields.

        Raises:
            ValueError: an argument without a default is not a field of the config.
        """
        refuse(cfg, "criterion", cls)
        arguments: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ValueError(
                    f"{cls.__name__}.__init__ takes {parameter}. A criterion must name its config fields one by one."
                )
            if name == "task":
                arguments["task"] = task
            elif name == "cfg":
                arguments["cfg"] = cfg
            elif hasattr(cfg, name):
                arguments[name] = getattr(cfg, name)
            elif parameter.default is parameter.empty:
                raise ValueError(f"criterion.{name} is missing. {cls.__name__} requires it.")
        return cls(**arguments)

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Compute the loss (a sum), the number of items it sums over, and the values to log."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward.")

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log the outputs of all forward passes and processes of an update."""
        raise NotImplementedError(f"{cls.__name__} does not implement reduce_metrics.")

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Whether outputs can be summed over forward passes and processes before `reduce_metrics`."""
        return False


class LegacyFairseqCriterion(FairseqCriterion):
    """A criterion that takes all old command-line arguments."""

    def __init__(self, args: Any, task: Any) -> None:
        super().__init__(task)
        self.args = args

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any = None) -> LegacyFairseqCriterion:
        return cls(cfg, task)
