"""What parameter-efficient fine-tuning has trained, in a file of its own: some megabytes beside one large encoder.

A file has the tensors that `model.tuning` trains, under the encoder's names, and the output layer; its metadata say how
they were made and what the outputs mean. One encoder with several files transcribes several languages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.conversion.portable_model import OutputLayer, PortableModel
from fairseq.installed import advice
from fairseq.models.wav2vec import pretrained, tuning
from fairseq.modules.lora import DOWN, UP
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

FORMAT = "wav2vec 2.0 adapter, version 1"
_HEAD = "proj."
_KEPT = ("tuning", "lora_rank", "lora_alpha", "lora_dropout", "blank_weight", "blank_mode")


def file_of(name: str, model: str) -> Path:
    """The file that `--adapter NAME` means: a path, or a language, whose file is adapter.NAME.safetensors at the model.

    Args:
        model: path of the checkpoint, or of a folder with a model.
    Raises:
        MissingFileError: there is no such file.
    """
    if os.path.isfile(name):
        return Path(name)
    folder = Path(model) if os.path.isdir(model) else Path(model).parent
    found = folder / f"adapter.{name}.safetensors"
    if not found.is_file():
        raise MissingFileError(f"--adapter {name}: there is no such file, and no {found}")
    return found


def check(state: Mapping[str, Any] | None, source: str) -> None:
    """Check that a checkpoint has an adapter to write.

    Args:
        state: read by `fairseq.checkpoint.io.load`; None: a model of another tool.
        source: the checkpoint's name, for messages.
    Raises:
        ValueError: it is another tool's, all of the encoder was trained, or it has no dictionary.
    """
    if state is None:
        raise ValueError(f"--to adapter needs a checkpoint that fairseq-hydra-train wrote; {source} is another tool's")
    how = _tuning(state)
    if how == "all" or pretrained.symbols_of(state) is None:
        lacks = "has all of its encoder trained (model.tuning=all)" if how == "all" else "has no dictionary"
        raise ValueError(
            f"{source} {lacks}, so there is no adapter to write. Fine-tune with model.tuning=adapters, lora or bias."
        )


def save(state: Mapping[str, Any], path: str) -> None:
    """Write what fine-tuning has trained.

    Args:
        state: a checkpoint that `check` accepts.
        path: the new file; `convert` gives it its name when it is complete.
    """
    cfg = pretrained.as_container(state["cfg"])
    settings, how = cfg["model"], _tuning(state)
    encoder = _part(state["model"], pretrained.ENCODER)
    chosen = {name: tensor for name, tensor in encoder.items() if tuning.TRAINED[how].search(name)}
    head = {_HEAD + name: tensor for name, tensor in _part(state["model"], pretrained.HEAD).items()}
    config = settings["w2v_args"]["model"]
    about = {
        "settings": {key: settings[key] for key in _KEPT if key in settings},
        "adapters": {key: config[key] for key in pretrained.ADAPTERS if key in config} if how == "adapters" else {},
        "symbols": pretrained.symbols_of(state),
        "task": {
            "normalize": pretrained.normalizes(settings["w2v_args"]),
            "sample_rate": (cfg.get("task") or {}).get("sample_rate", 16_000),
        },
        "encoder": fingerprint(encoder),
    }
    _write({name: tensor.contiguous() for name, tensor in {**chosen, **head}.items()}, about, path)


def without(state: Mapping[str, Any]) -> dict[str, Any]:
    """Such a checkpoint without what fine-tuning added; biases keep their new values, which a file replaces."""
    cfg = pretrained.as_container(state["cfg"])
    if _tuning(state) != "lora":
        return {**state, "cfg": cfg}
    weights = {name: tensor for name, tensor in state["model"].items() if not tuning.TRAINED["lora"].search(name)}
    return {**state, "cfg": {**cfg, "model": {**cfg["model"], "tuning": "all"}}, "model": weights}


def _tuning(state: Mapping[str, Any]) -> str:
    return str((pretrained.as_container(state["cfg"]).get("model") or {}).get("tuning", "all"))


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def apply(model: PortableModel, path: Path) -> PortableModel:
    """Give an encoder an adapter and its output layer; low-rank updates are merged into its weights.

    Raises:
        ValueError: the file is damaged or not an adapter, or it belongs to another encoder.
    """
    tensors, about = _read(path)
    settings, head = about["settings"], {k.removeprefix(_HEAD): t for k, t in tensors.items() if k.startswith(_HEAD)}
    parts = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)}
    if fingerprint(model.encoder) != about["encoder"]:
        logger.warning("%s was trained with another encoder, or one of another precision: results may be wrong", path)
    encoder = dict(model.encoder)
    base = {name for name in encoder if not tuning.is_added(name)}
    for name, tensor in parts.items():
        if not _fits(name, tensor, {key: encoder[key] for key in base}, bool(about["adapters"])):
            raise ValueError(f"{path} does not fit the model: it has {name} of shape {tuple(tensor.shape)}")
    encoder = tuning.merged({**encoder, **parts}, settings)
    if len(head["weight"]) != len(about["symbols"]):
        raise ValueError(f"{path} has {len(head['weight'])} outputs for {len(about['symbols'])} symbols")
    output = OutputLayer(head, about["symbols"], {**settings, "tuning": "all"})
    config, task = {**model.config, **about["adapters"]}, {**model.task, **about["task"]}
    return model._replace(config=config, task=task, encoder=encoder, output=output)


def _fits(name: str, tensor: Tensor, base: Mapping[str, Tensor], has_adapters: bool) -> bool:
    """Whether a tensor of an adapter belongs to this encoder; adapters' own shapes are compared when it is built."""
    if name in base:
        return base[name].shape == tensor.shape
    layer, _, part = name.rpartition(".")
    weight = base.get(f"{layer}.weight")
    if part not in (DOWN, UP) or weight is None or tensor.dim() != 2:
        return has_adapters
    return tensor.size(1) == weight.size(1) if part == DOWN else tensor.size(0) == weight.size(0)


def fingerprint(encoder: Mapping[str, Tensor]) -> str:
    """A short digest of a few weights that no choice of `model.tuning` trains."""
    names = sorted(
        name
        for name, tensor in encoder.items()
        if tensor.dim() > 1 and not any(kind.search(name) for kind in tuning.TRAINED.values())
    )
    digest = hashlib.sha256()
    for name in (names[0], names[len(names) // 2], names[-1]):
        digest.update(name.encode())
        digest.update(encoder[name].detach().to(torch.float32).contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# -- the file ----------------------------------------------------------------------------------------------------------


def _write(tensors: dict[str, Tensor], about: Mapping[str, object], path: str) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"writing {path} needs safetensors: {advice('convert')}") from error
    save_file(tensors, path, {"format": "pt", "kind": FORMAT, "about": json.dumps(about, ensure_ascii=False)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(f"reading {path} needs safetensors: {advice('convert')}") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != FORMAT:
                raise ValueError(f"{path} is not an adapter that fairseq-convert --to adapter wrote")
            about = json.loads(metadata["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not {"settings", "adapters", "symbols", "task", "encoder"} <= set(about) or f"{_HEAD}weight" not in tensors:
        raise ValueError(f"{path} is damaged: it lacks parts of an adapter")
    return tensors, about
