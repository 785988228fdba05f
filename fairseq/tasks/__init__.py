"""Tasks and their registry. A task loads the data, and builds the model and criterion."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, TypeVar

from fairseq.dataclass.groups import config_group, current_name, register_dataclass, unknown_name
from fairseq.dataclass.utils import merge_with_parent
from fairseq.tasks.fairseq_task import FairseqTask, LegacyFairseqTask

__all__ = [
    "TASK_DATACLASS_REGISTRY",
    "TASK_REGISTRY",
    "FairseqTask",
    "LegacyFairseqTask",
    "get_task",
    "register_task",
    "setup_task",
]

TASK_REGISTRY: dict[str, type[FairseqTask]] = {}
TASK_DATACLASS_REGISTRY: dict[str, type] = config_group("task")

TaskClass = TypeVar("TaskClass", bound=type[FairseqTask])


def register_task(name: str, dataclass: type | None = None) -> Callable[[TaskClass], TaskClass]:
    """Register a task class (decorator), so that a config selects it with `task._name: name`.

    Args:
        name: name of the task in configs.
        dataclass: the dataclass of its config group.
    Raises:
        ValueError: the name is taken, or the class does not extend FairseqTask.
    """

    def register(cls: TaskClass) -> TaskClass:
        if name in TASK_REGISTRY:
            raise ValueError(f"The task {name!r} is already registered ({TASK_REGISTRY[name].__name__}).")
        if not issubclass(cls, FairseqTask):
            raise ValueError(f"The task {name!r} ({cls.__name__}) must extend FairseqTask.")
        if dataclass is not None:
            register_dataclass("task", name, dataclass)
        TASK_REGISTRY[name] = cls
        return cls

    return register


def get_task(name: str | None) -> type[FairseqTask]:
    """Return the task class registered under a name.

    Raises:
        ValueError: no task has this name.
    """
    if name is None or name not in TASK_REGISTRY:
        raise unknown_name("task", name, TASK_REGISTRY)
    return TASK_REGISTRY[name]


def setup_task(cfg: Any, **kwargs: Any) -> FairseqTask:
    """Set up the task that a config names.

    Args:
        cfg: the config group `task`: a DictConfig or dict with `_name`, or a dataclass instance; or old command-line
            arguments (`task`).
        **kwargs: arguments of the task. `from_checkpoint=True` means that `cfg` comes from a checkpoint: fields that
            this version does not have are dropped.
    Raises:
        ValueError: no task has this name, or its dataclass rejects a key or value.
    """
    name = current_name("task", cfg)
    task = get_task(name)
    if name in TASK_DATACLASS_REGISTRY:
        # a Namespace holds the arguments of all groups
        foreign = isinstance(cfg, Namespace) or bool(kwargs.get("from_checkpoint", False))
        cfg = merge_with_parent(TASK_DATACLASS_REGISTRY[name](), cfg, remove_missing=foreign)
        cfg._name = name
    return task.setup_task(cfg, **kwargs)


from fairseq.tasks import (  # noqa: E402 - fills the registry, which must exist first
    audio_classification,  # noqa: F401
    audio_finetuning,  # noqa: F401
    audio_pretraining,  # noqa: F401
    hubert_pretraining,  # noqa: F401
)
