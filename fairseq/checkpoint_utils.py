"""Save, load, continue: fairseq's public names, and models out of checkpoints.

Saving and continuing a run is `fairseq.checkpoint.run`.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Optional, Union

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq.checkpoint import building, io, kinds
from fairseq.checkpoint.building import prune_state_dict
from fairseq.checkpoint.compare import same_data
from fairseq.checkpoint.lock import save_dir_held
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.retention import checkpoint_paths
from fairseq.checkpoint.run import SaveResult, out_of_patience
from fairseq.checkpoint.run import resume as load_checkpoint
from fairseq.checkpoint.run import save as save_checkpoint
from fairseq.checkpoint.run import verify_folder as verify_checkpoint_directory
from fairseq.conversion import foreign, portable_model
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.models.wav2vec import pretrained
from fairseq.text_files import MissingFileError

__all__ = [
    "MissingFileError",
    "RunRecord",
    "SaveResult",
    "checkpoint_paths",
    "load_checkpoint",
    "load_checkpoint_to_cpu",
    "load_ema_from_checkpoint",
    "load_model_ensemble",
    "load_model_ensemble_and_task",
    "load_pretrained",
    "out_of_patience",
    "prune_state_dict",
    "same_data",
    "save_checkpoint",
    "save_dir_held",
    "save_ema_as_checkpoint",
    "torch_persistent_save",
    "verify_checkpoint_directory",
]

Filenames = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]]


# -- saving ------------------------------------------------------------------------------------------------------------


def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointWriteError: the disk is full or refuses.
        ValueError: `async_write`, which is not offered.
    """
    if async_write:
        raise ValueError("checkpoint.write_checkpoints_asynchronously is not offered: leave it false.")
    io.save(obj, filename)


# -- using -------------------------------------------------------------------------------------------------------------


def load_checkpoint_to_cpu(
    path: str, arg_overrides: Optional[dict[str, Any]] = None, load_on_all_ranks: bool = False
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; its `cfg` becomes a DictConfig.

    Args:
        arg_overrides: values for settings of its config, by name, in whichever group they stand.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or holds pickled objects.
    """
    state = io.load(path)
    if state.get("cfg") is not None:
        with building.naming(path):
            state["cfg"] = OmegaConf.create(state["cfg"])
            if arg_overrides:
                overwrite_args_by_name(state["cfg"], arg_overrides)
            OmegaConf.set_struct(state["cfg"], False)
    return state


def load_pretrained(path: str) -> tuple[DictConfig, dict[str, Any]]:
    """What `model.w2v_path` names: (the config inside, the state with "model" and, of a fine-tuned one, "task_state").

    Args:
        path: a checkpoint, or a folder of transformers or torchaudio (see docs/checkpoints.md).
    Raises:
        MissingFileError: there is no such file.
        ValueError: it is damaged, it has no model config inside, or it is of a kind that has no counterpart here.
    """
    if not os.path.exists(path):
        raise MissingFileError(f"model.w2v_path is {path}: {kinds.missing(path)}.")
    if os.path.isdir(path):
        if not foreign.is_folder(path):
            raise ValueError(f"model.w2v_path is {path}: this folder is none of transformers, it has no config.json.")
        state = portable_model.to_checkpoint(foreign.read(path, io.read))
        return _config_inside(state, path), state
    state = load_checkpoint_to_cpu(path)
    return _config_inside(state, path), state


def load_model_ensemble(
    filenames: Filenames,
    arg_overrides: Optional[dict[str, Any]] = None,
    task: Any = None,
    strict: bool = True,
    suffix: str = "",
    num_shards: int = 1,
    state: Optional[dict[str, Any]] = None,
) -> tuple[list[nn.Module], DictConfig]:
    """`load_model_ensemble_and_task` without the task."""
    models, cfg, _ = load_model_ensemble_and_task(filenames, arg_overrides, task, strict, suffix, num_shards, state)
    return models, cfg


def load_model_ensemble_and_task(
    filenames: Filenames,
    arg_overrides: Optional[dict[str, Any]] = None,
    task: Any = None,
    strict: bool = True,
    suffix: str = "",
    num_shards: int = 1,
    state: Optional[dict[str, Any]] = None,
) -> tuple[list[nn.Module], DictConfig, Any]:
    """Build the models of checkpoints from the configs inside them, with their weights.

    Settings that a file does not have keep their defaults; a file without a task is given audio_pretraining.

    Args:
        filenames: checkpoints, one per model; or the path of a single one.
        arg_overrides: values for settings of their configs, by name.
        task: use this one; None sets up the first file's.
        strict: names of weights that are missing on either side are an error.
        suffix: put before .pt in file names.
        state: an already loaded checkpoint, in place of reading the only file.
    Returns:
        the models, the last file's config, the task.
    Raises:
        MissingFileError: a file is not there; a FileNotFoundError as well as a ValueError.
        ValueError: sharded files (not offered), no file at all, a damaged file, no config in it.
    """
    if num_shards != 1:
        raise ValueError(
            f"num_shards is {num_shards}: sharded checkpoints are not offered, only files of a whole model."
        )
    paths = (
        [os.fspath(filenames)] if isinstance(filenames, (str, os.PathLike)) else [os.fspath(name) for name in filenames]
    )
    if not paths:
        raise ValueError("filenames is empty: give the path of a checkpoint, or a list of such paths.")
    if state is not None and len(paths) != 1:
        raise ValueError("A loaded state stands for one file: give exactly one file name with it.")
    models: list[nn.Module] = []
    for name in paths:
        path = re.sub(r"\.pt$", f"{suffix}.pt", name)
        if state is None and not os.path.isfile(path):
            raise MissingFileError(
                f"Model file not found: {path}" + (f" ({kinds.missing(path)})" if os.path.islink(path) else "")
            )
        loaded = load_checkpoint_to_cpu(path, arg_overrides) if state is None else state
        with building.naming(path):
            model, cfg, task = _model_inside(loaded, path, task, strict)
        models.append(model)
    return models, cfg, task


def _model_inside(loaded: dict[str, Any], path: str, task: Any, strict: bool) -> tuple[nn.Module, DictConfig, Any]:
    """One checkpoint's model with its weights, its config, and the task: the given one, or its own."""
    from fairseq import tasks

    cfg = _config_inside(loaded, path)
    _check_kind(cfg.model.get("_name"), path)
    if task is None:
        building.known_task(cfg, path)
        task = tasks.setup_task(cfg.task, from_checkpoint=True)
    if loaded.get("task_state"):
        task.load_state_dict(loaded["task_state"])
    if cfg.model.get("_name") == "wav2vec_ctc":
        _check_dictionary(task, loaded, path)
    model = building.build(partial(task.build_model, cfg.model, from_checkpoint=True), loaded["model"], cfg.model)
    history = loaded.get("optimizer_history") or [{}]
    if hasattr(model, "updates_before"):
        model.updates_before = RunRecord.updates_before_in(loaded)
    if "num_updates" in history[-1]:
        model.set_num_updates(history[-1]["num_updates"])
    building.fill(model, loaded["model"], path, strict, cfg.model)
    return model, cfg, task


def _check_kind(kind: str | None, path: str) -> None:
    """A checkpoint's model must be one that there is here."""
    if kind is not None and kind not in MODEL_REGISTRY and kind not in ARCH_MODEL_NAME_REGISTRY:
        offered = ", ".join(sorted(MODEL_REGISTRY))
        raise ValueError(f"{path} holds a model of kind {kind!r}, which is not offered here: only {offered}.")


def _check_dictionary(task: Any, state: dict[str, Any], path: str) -> None:
    """A fine-tuned checkpoint's dictionary must fit; without one inside (fairseq before 0.11) it needs the one of
    its data folder.
    """
    if not hasattr(task, "dictionary_path"):
        return
    name = "the dictionary inside"
    if not state.get("task_state"):
        name = f"the dictionary {task.dictionary_path()}"
        if not os.path.isfile(task.dictionary_path()):
            raise ValueError(
                f"{path} is fine-tuned and holds no dictionary, and {task.dictionary_path()} is not there. Give its "
                f"file with --dict FILE, in Python its folder by arg_overrides={{'data': folder}}; or put it into "
                f"the checkpoint once: fairseq-convert {path} NEW.pt --to fairseq --dict FILE."
            )
    head = state["model"].get(pretrained.HEAD + "weight")
    size = len(task.target_dictionary)
    if head is not None and head.size(0) != size:
        raise ValueError(
            f"{path} has an output layer of {head.size(0)} rows, but {name} has {size} symbols (the four special "
            "ones counted): give the one that it was fine-tuned with, by --dict FILE or in the data folder."
        )


def _config_inside(state: dict[str, Any], path: str) -> DictConfig:
    cfg = state.get("cfg")
    if cfg is None or cfg.get("model") is None:
        raise ValueError(f"{path} has no model config inside, so the model cannot be built from it.")
    cfg = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(cfg)
    if cfg.get("task") is None:
        cfg.task = {"_name": "audio_pretraining"}
    return cfg


def load_ema_from_checkpoint(fpath: str) -> dict[str, Any]:
    """A checkpoint whose "model" is the running average of its weights.

    Raises:
        ValueError: it holds no average (ema.store_ema was off).
    """
    state = io.load(fpath)
    average = (state.get("extra_state") or {}).get("ema")
    if not average:
        raise ValueError(f"{fpath} holds no averaged weights: it was written without ema.store_ema=true.")
    state["model"] = OrderedDict(
        (key, value.float() if value.dtype == torch.float16 else value) for key, value in average.items()
    )
    return state


def save_ema_as_checkpoint(src_path: str, dst_path: str) -> None:
    """Write a checkpoint whose "model" is the running average of another's weights."""
    torch_persistent_save(load_ema_from_checkpoint(src_path), dst_path)
