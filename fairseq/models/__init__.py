"""Models and their registry."""

from __future__ import annotations

import importlib
import pkgutil
from argparse import Namespace
from collections.abc import Callable
from typing import Any, TypeVar

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.groups import config_group, current_name, register_dataclass, unknown_name
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models.fairseq_encoder import FairseqEncoder
from fairseq.models.fairseq_model import BaseFairseqModel, FairseqEncoderModel, FairseqModel

__all__ = [
    "ARCH_CONFIG_REGISTRY",
    "ARCH_MODEL_INV_REGISTRY",
    "ARCH_MODEL_NAME_REGISTRY",
    "ARCH_MODEL_REGISTRY",
    "MODEL_DATACLASS_REGISTRY",
    "MODEL_REGISTRY",
    "BaseFairseqModel",
    "FairseqDataclass",
    "FairseqEncoder",
    "FairseqEncoderModel",
    "FairseqModel",
    "build_model",
    "merge_with_parent",
    "register_model",
    "register_model_architecture",
]

MODEL_REGISTRY: dict[str, type[BaseFairseqModel]] = {}
MODEL_DATACLASS_REGISTRY: dict[str, type] = config_group("model")
ARCH_MODEL_REGISTRY: dict[str, type[BaseFairseqModel]] = {}
ARCH_MODEL_NAME_REGISTRY: dict[str, str] = {}
ARCH_MODEL_INV_REGISTRY: dict[str, list[str]] = {}
ARCH_CONFIG_REGISTRY: dict[str, Callable[[Any], None]] = {}

ModelClass = TypeVar("ModelClass", bound=type[BaseFairseqModel])


def register_model(name: str, dataclass: type | None = None) -> Callable[[ModelClass], ModelClass]:
    """Class decorator: register a model under `model._name: name`, with the dataclass that configures it.

    Raises:
        ValueError: the name is taken, or the class is not a BaseFairseqModel.
    """

    def register(cls: ModelClass) -> ModelClass:
        if name in MODEL_REGISTRY:
            raise ValueError(f"The model {name!r} is already registered ({MODEL_REGISTRY[name].__name__}).")
        if not issubclass(cls, BaseFairseqModel):
            raise ValueError(f"The model {name!r}, {cls.__name__}, must extend BaseFairseqModel.")
        if dataclass is not None:
            register_dataclass("model", name, dataclass)
            _register_architecture(name, name, lambda cfg: None)
        MODEL_REGISTRY[name] = cls
        if dataclass is not None:
            ARCH_MODEL_REGISTRY[name] = cls
        return cls

    return register


def _register_architecture(model_name: str, arch_name: str, set_defaults: Callable[[Any], None]) -> None:
    if arch_name in ARCH_CONFIG_REGISTRY:
        raise ValueError(f"The model architecture {arch_name!r} is already registered.")
    ARCH_MODEL_NAME_REGISTRY[arch_name] = model_name
    ARCH_MODEL_INV_REGISTRY.setdefault(model_name, []).append(arch_name)
    ARCH_CONFIG_REGISTRY[arch_name] = set_defaults


def register_model_architecture(
    model_name: str, arch_name: str
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Function decorator: register an architecture of a model. The function fills in missing config values.

    Raises:
        ValueError: the model is not registered, or the architecture's name is taken.
    """

    def register(set_defaults: Callable[[Any], None]) -> Callable[[Any], None]:
        if model_name not in MODEL_REGISTRY:
            raise unknown_name("model", model_name, MODEL_REGISTRY)
        _register_architecture(model_name, arch_name, set_defaults)
        ARCH_MODEL_REGISTRY[arch_name] = MODEL_REGISTRY[model_name]
        return set_defaults

    return register


def build_model(cfg: Any, task: Any = None, from_checkpoint: bool = False) -> BaseFairseqModel:
    """Build the model named by a config.

    Args:
        cfg: the config group `model`: a DictConfig or dict with `_name`, a dataclass instance, or old command-line
            arguments (`arch`).
        task: passed to the model's `build_model`.
        from_checkpoint: `cfg` comes from a file: drop fields that this version does not have.
    Raises:
        ValueError: unknown model, or keys or values that its dataclass rejects.
    """
    name = current_name("model", cfg)
    model_type = None if name is None else ARCH_MODEL_NAME_REGISTRY.get(name, name)
    if model_type is None or model_type not in MODEL_REGISTRY:
        raise unknown_name("model", name, MODEL_REGISTRY)
    if model_type in MODEL_DATACLASS_REGISTRY:
        foreign = from_checkpoint or isinstance(cfg, Namespace)  # a Namespace holds the arguments of all groups
        cfg = merge_with_parent(MODEL_DATACLASS_REGISTRY[model_type](), cfg, remove_missing=foreign)
    if name in ARCH_CONFIG_REGISTRY:
        ARCH_CONFIG_REGISTRY[name](cfg)
    return MODEL_REGISTRY[model_type].build_model(cfg, task)


# every package here fills the registry, which must exist first
for _found in pkgutil.iter_modules(__path__):
    if _found.ispkg:
        importlib.import_module(f"{__name__}.{_found.name}")
