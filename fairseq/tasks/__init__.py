"""Tasks and their registry. A task knows the data, and builds what a run needs to learn from it."""

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
    """Class decorator: make a task known to configs as `task._name: name`, with the dataclass that configures it.

    Raises:
        ValueError: the name is taken, or the class is no FairseqTask.
    """

    def register(cls: TaskClass) -> TaskClass:
        if name in TASK_REGISTRY:
            raise ValueError(f"The task {name!r} is registered already ({TASK_REGISTRY[name].__name__}).")
        if not issubclass(cls, FairseqTask):
            raise ValueError(f"The task {name!r}, {cls.__name__}, must extend FairseqTask.")
        if dataclass is not None:
            register_dataclass("task", name, dataclass)
        TASK_REGISTRY[name] = cls
        return cls

    return register


def get_task(name: str | None) -> type[FairseqTask]:
    """The class of a task's name.

    Raises:
        ValueError: there is no such task.
    """
    if name is None or name not in TASK_REGISTRY:
        raise unknown_name("task", name, TASK_REGISTRY)
    return TASK_REGISTRY[name]


def setup_task(cfg: Any, **kwargs: Any) -> FairseqTask:
    """Set up the task that a config names.

    Args:
        cfg: the config group `task`: a DictConfig or dict with `_name`, or a dataclass instance; or old command-line
            arguments (`task`).
        **kwargs: `from_checkpoint=True` if `cfg` comes from a file: fields that this version does not have are left
            out. The others go to the task.
    Raises:
        ValueError: no such task, or keys and values that its dataclass does not take.
    """
    name = current_name("task", cfg)
    task = get_task(name)
    if name in TASK_DATACLASS_REGISTRY:
        # arguments are those of all groups
        foreign = isinstance(cfg, Namespace) or bool(kwargs.get("from_checkpoint", False))
        cfg = merge_with_parent(TASK_DATACLASS_REGISTRY[name](), cfg, remove_missing=foreign)
        cfg._name = name
    return task.setup_task(cfg, **kwargs)


from fairseq.tasks import audio_finetuning, audio_pretraining  # noqa: E402, F401 - fills the registry, which must stand first
