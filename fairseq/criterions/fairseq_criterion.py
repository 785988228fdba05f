"""The base of all criterions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fairseq.dataclass.checks import refuse


class FairseqCriterion(nn.Module):
    """A loss over a model's output, with what is logged about it.

    A subclass names in `__init__` the config fields it wants; `build_criterion` passes those by name.
    """

    def __init__(self, task: Any = None) -> None:
        super().__init__()
        self.task = task
        dictionary = None if task is None else task.target_dictionary
        self.padding_idx = dictionary.pad() if dictionary is not None else -100

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any = None) -> FairseqCriterion:
        """A criterion whose arguments are taken from `task` (or `cfg` as a whole) and, by name, from the config's
        fields.

        Raises:
            ValueError: an argument without a default is no field of the config.
        """
        refuse(cfg, "criterion", cls)
        arguments: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ValueError(f"{cls.__name__} takes {parameter}: a criterion names its config fields one by one")
            if name == "task":
                arguments["task"] = task
            elif name == "cfg":
                arguments["cfg"] = cfg
            elif hasattr(cfg, name):
                arguments[name] = getattr(cfg, name)
            elif parameter.default is parameter.empty:
                raise ValueError(f"criterion.{name} is missing: {cls.__name__} needs it")
        return cls(**arguments)

    def forward(
        self, model: nn.Module, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Loss (a sum), what it is a sum over, and what to log."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log the outputs of all forward passes and processes of an update."""
        raise NotImplementedError(f"{cls.__name__} has no reduce_metrics")

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Whether the outputs may be added up over forward passes and processes before `reduce_metrics`."""
        return False


class LegacyFairseqCriterion(FairseqCriterion):
    """A criterion that takes old command-line arguments as a whole."""

    def __init__(self, args: Any, task: Any) -> None:
        super().__init__(task)
        self.args = args

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any = None) -> LegacyFairseqCriterion:
        return cls(cfg, task)
