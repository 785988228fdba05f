"""fairseq's `from_pretrained`, for folders and files on this machine."""

from __future__ import annotations

import os
from typing import Any

from fairseq import checkpoint_utils, utils
from fairseq.dataclass.configs import CommonConfig

__all__ = ["from_pretrained"]


def from_pretrained(
    model_name_or_path: str,
    checkpoint_file: str = "model.pt",
    data_name_or_path: str = ".",
    archive_map: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Load the models of a folder.

    Args:
        model_name_or_path: the folder; nothing is downloaded.
        checkpoint_file: checkpoints in it, joined by os.pathsep.
        data_name_or_path: folder of the dictionary; one that begins with a dot is relative to the model's folder.
        archive_map: accepted for fairseq's callers, and ignored.
        kwargs: settings by name that replace those of the checkpoint; `user_dir` is imported.
    Returns:
        {"args": the config, "task": the task, "models": the models}.
    Raises:
        MissingFileError: there is no such folder, or a checkpoint is not in it.
        ValueError: as `checkpoint_utils.load_model_ensemble_and_task`.
    """
    if not os.path.isdir(model_name_or_path):
        raise checkpoint_utils.MissingFileError(
            f"{model_name_or_path} is not a folder on this machine: download the model, then give its folder."
        )
    utils.import_user_module(CommonConfig(user_dir=kwargs.get("user_dir")))
    inside = data_name_or_path.startswith(".")
    data = os.path.abspath(os.path.join(model_name_or_path, data_name_or_path)) if inside else data_name_or_path
    paths = [os.path.join(model_name_or_path, name) for name in checkpoint_file.split(os.pathsep)]
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(paths, arg_overrides={**kwargs, "data": data})
    return {"args": cfg, "task": task, "models": models}
