"""fairseq's public names for checkpoints, and loading models from them.

`fairseq.checkpoint.saver` saves runs, and `fairseq.checkpoint.run` resumes them.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Optional, Union, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq.checkpoint import building, fetching, io, kinds
from fairseq.checkpoint.building import prune_state_dict
from fairseq.checkpoint.compare import same_data
from fairseq.checkpoint.lock import save_dir_held
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.retention import checkpoint_paths
from fairseq.checkpoint.run import out_of_patience
from fairseq.checkpoint.run import resume as load_checkpoint
from fairseq.checkpoint.run import save as save_checkpoint
from fairseq.checkpoint.run import verify_folder as verify_checkpoint_directory
from fairseq.checkpoint.writing import SaveResult
from fairseq.conversion import foreign, portable_model
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.models import kinds as model_kinds
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import HasTargetDictionary
from fairseq.tasks import FairseqTask
from fairseq.tasks.fairseq_task import HasDictionaryFile
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
        CheckpointWriteError: the file cannot be written, for example on a full disk.
        ValueError: `async_write` is true, which is not supported.
    """
    if async_write:
        raise ValueError(
            "async_write=True is not supported: call it in a thread of your own. A training run writes while it trains "
            "with checkpoint.async_save=true."
        )
    io.save(obj, filename)


# -- loading -----------------------------------------------------------------------------------------------------------


def load_checkpoint_to_cpu(
    path: str, arg_overrides: Optional[dict[str, Any]] = None, load_on_all_ranks: bool = False
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; its `cfg` becomes a DictConfig.

    Args:
        arg_overrides: new values for settings of its config, by name, in any group.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds pickled objects.
    """
    state = io.load(path)
    if state.get("cfg") is not None:
        with building.naming(path):
            state["cfg"] = cfg = cast(DictConfig, OmegaConf.create(state["cfg"]))
            if arg_overrides:
                overwrite_args_by_name(cfg, arg_overrides)
            OmegaConf.set_struct(cfg, False)
    return state


def load_pretrained(path: str) -> tuple[DictConfig, dict[str, Any]]:
    """Load the model that `model.w2v_path` names.

    Args:
        path: a checkpoint, a folder of transformers or torchaudio, or an id of the Hugging Face hub (see
            docs/checkpoints.md).
    Returns:
        its config, and its state with "model" and, if it is fine-tuned, "task_state".
    Raises:
        MissingFileError: there is no such file.
        ValueError: it is damaged, has no model config, or has a model type without a counterpart here.
    """
    if not kinds.exists(path):
        raise MissingFileError(f"model.w2v_path={path}: {kinds.missing(path)}.")
    here = fetching.local(path)
    if os.path.isdir(here) and not kinds.is_checkpoint(here):
        if not foreign.is_folder(here):
            raise ValueError(
                f"model.w2v_path={path} is a folder without config.json. Set a checkpoint file, or a transformers or "
                "torchaudio folder with its config.json."
            )
        state = portable_model.to_checkpoint(foreign.read(here, io.read))
        return _config_inside(state, path), state
    state = load_checkpoint_to_cpu(path)
    return _config_inside(state, path), state


def load_model_ensemble(
    filenames: Filenames,
    arg_overrides: Optional[dict[str, Any]] = None,
    task: Optional[FairseqTask] = None,
    strict: bool = True,
    suffix: str = "",
    num_shards: int = 1,
    state: Optional[dict[str, Any]] = None,
) -> tuple[list[nn.Module], DictConfig]:
    """Like `load_model_ensemble_and_task`, without returning the task."""
    models, cfg, _ = load_model_ensemble_and_task(filenames, arg_overrides, task, strict, suffix, num_shards, state)
    return models, cfg


def load_model_ensemble_and_task(
    filenames: Filenames,
    arg_overrides: Optional[dict[str, Any]] = None,
    task: Optional[FairseqTask] = None,
    strict: bool = True,
    suffix: str = "",
    num_shards: int = 1,
    state: Optional[dict[str, Any]] = None,
) -> tuple[list[nn.Module], DictConfig, FairseqTask]:
    """Build the models of checkpoints from their configs, and load their weights.

    Settings that a file does not have get their defaults; a file without a task gets audio_pretraining.

    Args:
        filenames: checkpoints, one per model; or the path of a single one.
        arg_overrides: new values for settings of their configs, by name.
        task: the task to use; None: set up the first file's.
        strict: missing or unexpected weights are an error.
        suffix: inserted before .pt in file names.
        num_shards: must be 1.
        state: an already loaded checkpoint, used instead of reading the only file.
    Returns:
        the models, the last file's config, the task.
    Raises:
        MissingFileError: a file does not exist; it is both a FileNotFoundError and a ValueError.
        ValueError: no file, a sharded or damaged file, or a file without a config.
    """
    if num_shards != 1:
        raise ValueError(
            f"num_shards={num_shards}, but sharded checkpoints are not supported. Use a file with the whole model, and "
            "num_shards=1."
        )
    paths = (
        [os.fspath(filenames)] if isinstance(filenames, (str, os.PathLike)) else [os.fspath(name) for name in filenames]
    )
    if not paths:
        raise ValueError("filenames is empty. Pass the path of a checkpoint, or a list of such paths.")
    if state is not None and len(paths) != 1:
        raise ValueError(
            f"state is one loaded checkpoint, but filenames has {len(paths)} paths. Pass exactly one path with it."
        )
    found: list[tuple[nn.Module, DictConfig, FairseqTask]] = []
    for name in paths:
        path = re.sub(r"\.pt$", f"{suffix}.pt", name)
        if state is None and not kinds.is_checkpoint(path):
            raise MissingFileError(
                f"Model file not found: {path}" + (f" ({kinds.missing(path)})" if os.path.islink(path) else "")
            )
        loaded = load_checkpoint_to_cpu(path, arg_overrides) if state is None else state
        with building.naming(path):
            found.append(_model_inside(loaded, path, found[0][2] if found else task, strict))
    _, cfg, task = found[-1]
    return [model for model, _, _ in found], cfg, task


def _model_inside(
    loaded: dict[str, Any], path: str, task: FairseqTask | None, strict: bool
) -> tuple[nn.Module, DictConfig, FairseqTask]:
    """Build one checkpoint's model with its weights; returns it with its config and the task (given, or its own)."""
    from fairseq import tasks

    cfg = _config_inside(loaded, path)
    _check_kind(cfg.model.get("_name"), path)
    if task is None:
        building.known_task(cfg, path)
        task = tasks.setup_task(cfg.task, from_checkpoint=True)
    if loaded.get("task_state"):
        task.load_state_dict(loaded["task_state"])
    if model_kinds.transcribes(cfg.model.get("_name")):
        _check_dictionary(task, loaded, path)
    model = building.build(partial(task.build_model, cfg.model, from_checkpoint=True), loaded["model"], cfg.model)
    history = loaded.get("optimizer_history") or [{}]
    if isinstance(model, Wav2Vec2Model):
        model.updates_before = RunRecord.updates_before_in(loaded)
    if "num_updates" in history[-1]:
        model.set_num_updates(history[-1]["num_updates"])
    building.fill(model, loaded["model"], path, strict, cfg.model)
    return model, cfg, task


def _check_kind(kind: str | None, path: str) -> None:
    """Refuse a checkpoint whose model is not registered."""
    if kind is not None and kind not in MODEL_REGISTRY and kind not in ARCH_MODEL_NAME_REGISTRY:
        supported = ", ".join(sorted(MODEL_REGISTRY))
        raise ValueError(
            f"{path} holds a model of type {kind!r}, which is not supported. Supported types: {supported}."
        )


def _check_dictionary(task: FairseqTask, state: dict[str, Any], path: str) -> None:
    """Check that a fine-tuned checkpoint's dictionary exists and fits its output layer.

    A checkpoint without a dictionary (fairseq before 0.11) needs the one in its data folder.
    """
    if not isinstance(task, HasDictionaryFile):
        return
    name = "its dictionary"
    if not state.get("task_state"):
        name = f"the dictionary {task.dictionary_path()}"
        if not os.path.isfile(task.dictionary_path()):
            raise ValueError(
                f"{path} is fine-tuned but holds no dictionary, and {task.dictionary_path()} does not exist. Add "
                f"--dict FILE (in Python: arg_overrides={{'data': folder}}); or store the dictionary in the checkpoint "
                f"once: fairseq-convert {path} NEW.pt --to fairseq --dict FILE."
            )
    head = state["model"].get(pretrained.HEAD + "weight")
    dictionary = cast(HasTargetDictionary, task).target_dictionary
    size = 0 if dictionary is None else len(dictionary)
    if head is not None and head.size(0) != size:
        raise ValueError(
            f"{path} has an output layer of {head.size(0)} rows, but {name} has {size} symbols (including the four "
            "special ones). Use the dictionary of its fine-tuning: --dict FILE, or in the data folder."
        )


def _config_inside(state: dict[str, Any], path: str) -> DictConfig:
    cfg = state.get("cfg")
    if cfg is None or cfg.get("model") is None:
        raise ValueError(
            f"{path} has no model config, so its model cannot be built. Use the whole checkpoint that fairseq saved."
        )
    cfg = cfg if isinstance(cfg, DictConfig) else cast(DictConfig, OmegaConf.create(cfg))
    if cfg.get("task") is None:
        cfg.task = {"_name": model_kinds.task(cfg.model.get("_name"))}
    return cfg


def load_ema_from_checkpoint(fpath: str) -> dict[str, Any]:
    """Load a checkpoint with the running average of its weights as "model".

    Raises:
        ValueError: it holds no average (ema.store_ema was false).
    """
    state = io.load(fpath)
    average = (state.get("extra_state") or {}).get("ema")
    if not average:
        raise ValueError(
            f"{fpath} holds no averaged weights: it was written without ema.store_ema=true. Use a checkpoint of a run "
            "that sets it."
        )
    state["model"] = OrderedDict(
        (key, value.float() if value.dtype == torch.float16 else value) for key, value in average.items()
    )
    return state


def save_ema_as_checkpoint(src_path: str, dst_path: str) -> None:
    """Write a checkpoint whose "model" is the running average of another's weights."""
    torch_persistent_save(load_ema_from_checkpoint(src_path), dst_path)
