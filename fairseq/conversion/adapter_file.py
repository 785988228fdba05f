"""What parameter-efficient fine-tuning has trained, in a file of its own: some megabytes beside one large encoder.

A file has the tensors that `model.tuning` trains, under the encoder's names, and the output layer; its metadata say how
they were made and what the outputs mean. One encoder with several files transcribes several languages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.installed import advice
from fairseq.models.wav2vec import pretrained, tuning

FORMAT = "wav2vec 2.0 adapter, version 1"
HEAD = "proj."
_KEPT = ("tuning", "lora_rank", "lora_alpha", "lora_dropout", "blank_weight", "blank_mode")


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
    encoder = part(state["model"], pretrained.ENCODER)
    chosen = {name: tensor for name, tensor in encoder.items() if tuning.TRAINED[how].search(name)}
    head = {HEAD + name: tensor for name, tensor in part(state["model"], pretrained.HEAD).items()}
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


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose name begins with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


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


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the tensors of such a file and what its metadata say; None: something else wrote the file.

    Raises:
        ValueError: the file is damaged, or safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(f"reading {path} needs safetensors: {advice('convert')}") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != FORMAT:
                return None
            about = json.loads(metadata["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not {"settings", "adapters", "symbols", "task", "encoder"} <= set(about) or f"{HEAD}weight" not in tensors:
        raise ValueError(f"{path} is damaged: it lacks parts of an adapter")
    return tensors, about
