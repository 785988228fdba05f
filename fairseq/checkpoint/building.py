"""Build a model from a checkpoint's config and load its weights; every error names the file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from fairseq.checkpoint import compare
from fairseq.dataclass.groups import config_group
from fairseq.dataclass.utils import config_to_container
from fairseq.models import BaseFairseqModel, bounded, kinds

logger = logging.getLogger(__name__)

# errors from building with a file's values: torch asserts and divides with them, omegaconf resolves them
_WRONG_VALUES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    OmegaConfBaseException,
)


@contextmanager
def naming(path: str, what: str = "no model can be built from the config inside") -> Iterator[None]:
    """Turn errors that a checkpoint's values cause inside a `with` block into a ValueError with the file's name.

    Args:
        path: the checkpoint.
        what: what failed, as a clause for the message.
    """
    try:
        yield
    except ValueError as error:
        if path in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except _WRONG_VALUES as error:
        raise ValueError(f"{path}: {what} ({type(error).__name__}: {_first_line(error)}).") from error


def build(
    make: Callable[[], BaseFairseqModel], weights: Mapping[str, Tensor], model_cfg: DictConfig
) -> BaseFairseqModel:
    """Build a model with `make()`, unless it would be far larger than the weights.

    Raises:
        TooLarge: it would be; the message names the config's largest number.
    """
    try:
        with bounded.by(weights):
            return make()
    except bounded.TooLarge as error:
        value, key = max(_numbers(config_to_container(model_cfg), "model"), default=(0, ""))
        raise bounded.TooLarge(f"{error}. The largest value in its config is {key}={value}.") from error


def _numbers(values: Any, name: str) -> Iterator[tuple[int, str]]:
    """Yield every integer in nested settings, with its key."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, f"{name}.{key}")
    elif isinstance(values, int) and not isinstance(values, bool):
        yield values, name


def fill(model: BaseFairseqModel, weights: dict[str, Tensor], path: str, strict: bool, model_cfg: DictConfig) -> None:
    """Load the weights.

    Raises:
        WeightsDoNotFit: they belong to another model; the message lists the first tensors.
    """
    try:
        model.load_state_dict(weights, strict=strict, model_cfg=model_cfg)
    except (AttributeError, RuntimeError, TypeError) as error:
        odd = [
            f"{name} is a {type(value).__name__}" for name, value in weights.items() if not isinstance(value, Tensor)
        ]
        found = ", ".join(odd[:3]) or compare.unlike(weights, model.state_dict()) or _first_line(error)
        raise compare.WeightsDoNotFit(
            f"{path}: its weights do not fit its config: {found}. {_advice(weights)}"
        ) from error


def _advice(weights: Mapping[str, Tensor]) -> str:
    if any(".adapter_layer." in name for name in weights):
        return "Its blocks have adapters, as in MMS: its config must have layer_type=trf_adp, adp_num and adp_dim."
    return "Use an unmodified checkpoint that fairseq wrote."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def known_task(cfg: DictConfig, path: str) -> None:
    """Replace an unsupported task with a supported one: inference needs only its audio settings and labels."""
    name, known = cfg.task.get("_name"), config_group("task")
    if name in known:
        return
    instead = kinds.task(cfg.model.get("_name"))
    names = {field.name for field in fields(known[instead])}
    values = config_to_container(cfg.task)
    cfg.task = OmegaConf.create({**{key: value for key, value in values.items() if key in names}, "_name": instead})
    logger.info(f"{path}: its task {name!r} is not supported; using {instead}")


def prune_state_dict(state_dict: dict[str, Tensor], model_cfg: Any) -> dict[str, Tensor]:
    """Keep only the layers in `encoder_layers_to_keep` or `decoder_layers_to_keep` ("0,2,4"), and renumber them.

    Without these settings, all layers are kept.
    """
    settings = (
        {} if model_cfg is None else config_to_container(model_cfg) if not isinstance(model_cfg, dict) else model_cfg
    )
    pruned = dict(state_dict)
    for part in ("encoder", "decoder"):
        wanted = settings.get(f"{part}_layers_to_keep")
        if not wanted:
            continue
        new_numbers = {int(number): i for i, number in enumerate(sorted(int(number) for number in wanted.split(",")))}
        layer = re.compile(rf"^({part}.*?\.layers\.)(\d+)(\..*)$")
        kept = {}
        for name, tensor in pruned.items():
            match = layer.match(name)
            if match is None:
                kept[name] = tensor
            elif int(match[2]) in new_numbers:
                kept[f"{match[1]}{new_numbers[int(match[2])]}{match[3]}"] = tensor
        pruned = kept
    return pruned
