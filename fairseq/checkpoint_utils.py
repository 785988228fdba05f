"""Save, load, continue: fairseq's public names over `fairseq.checkpoint`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional, Union

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq.checkpoint import building, compare, io, kinds, lock, retention, source
from fairseq.checkpoint.building import prune_state_dict
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.retention import checkpoint_paths
from fairseq.conversion import formats, portable_model
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.models.wav2vec import pretrained
from fairseq.text_files import MissingFileError

__all__ = [
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
    "save_checkpoint",
    "save_dir_held",
    "save_ema_as_checkpoint",
    "torch_persistent_save",
    "verify_checkpoint_directory",
]

logger = logging.getLogger(__name__)

Filenames = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]]


class SaveResult(NamedTuple):
    """What became of a save."""

    paths: list[str]  # files written, the one to resume from first
    error: Optional[str] = None  # why a file is missing; the run goes on
    seconds: float = 0.0


# -- saving ------------------------------------------------------------------------------------------------------------


def save_checkpoint(
    cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Optional[float], stopping: bool = False
) -> Optional[SaveResult]:
    """Write the checkpoints that are due and remove those that no longer are. To be called by all processes; the first
    one writes.

    A disk that is full or refuses is reported with its path and free space, and the run goes on: older files are
    unharmed.

    Args:
        cfg: the config group `checkpoint`.
        trainer: gives `state_dict()`, `run_record`, `get_num_updates()`, `is_data_parallel_master`.
        epoch_itr: gives `epoch`, `end_of_epoch()`, `state_dict()`.
        val_loss: the best_checkpoint_metric of the validation that came with this save, or None.
        stopping: the run ends here, so something is written whether it is due or not, unless `no_save` is set.
    Returns:
        None where this process writes nothing.
    """
    updates, record = trainer.get_num_updates(), trainer.run_record
    if val_loss is not None:
        record.observe(val_loss, updates)
    if cfg.no_save or not trainer.is_data_parallel_master:
        return None
    epoch, end_of_epoch = epoch_itr.epoch, epoch_itr.end_of_epoch()
    is_best, best_before = record.is_best(val_loss), record.saved_best
    names = retention.checkpoint_names(cfg, epoch, updates, end_of_epoch, val_loss, is_best, stopping)
    if not names:
        return SaveResult([])
    start = time.perf_counter()
    record.files = names
    if is_best:
        record.saved_best = val_loss
    state = trainer.state_dict()
    state["extra_state"].update({"train_iterator": epoch_itr.state_dict(), "val_loss": val_loss, **record.state_dict()})
    result = _write(state, [os.path.join(cfg.save_dir, name) for name in names])
    result = result._replace(seconds=time.perf_counter() - start)
    # checkpoint_best.pt comes after the one to resume from: it may be the one that is missing
    if len(result.paths) < len(names):
        record.saved_best = best_before
    if result.error is not None:
        going_on = "" if stopping else "; training goes on"
        logger.error(f"{result.error} ({_free_space(cfg.save_dir)}). Older checkpoints are unharmed{going_on}.")
    if result.paths:
        for path in retention.outdated(cfg):
            with contextlib.suppress(FileNotFoundError):  # somebody tidied up meanwhile
                os.remove(path)
        logger.info(
            f"Saved checkpoint {result.paths[0]} (epoch {epoch} @ {updates} updates, score {val_loss}) "
            f"(writing took {result.seconds:.2f} seconds)"
        )
    return result


def _write(state: dict[str, Any], paths: list[str]) -> SaveResult:
    written: list[str] = []
    try:
        os.makedirs(os.path.dirname(paths[0]) or ".", exist_ok=True)
        written.append(io.save(state, paths[0]))
        for path in paths[1:]:
            written.append(io.copy(paths[0], path))
    except OSError as error:
        return SaveResult(written, f"checkpoint {paths[len(written)]} is not written: {error.strerror or error}")
    return SaveResult(written)


def _complete_last_save(cfg: Any, path: str, record: RunRecord, updates: int) -> None:
    """Copy the checkpoint to its other names again where a kill or a full disk came between two files of the save.

    Else checkpoint_best.pt would stay an older one than the run's record says, and for good.
    """
    if not record.files or os.path.basename(path) != record.files[0]:
        return
    for name in record.files[1:]:
        other = os.path.join(cfg.save_dir, name)
        try:
            if os.path.exists(other) and io.verify(other) is None and io.peek(other).num_updates == updates:
                continue
            io.copy(path, other)
            logger.info(f"{other} was missing or older, though {path} was saved under this name too: copied")
        except (OSError, ValueError) as error:
            logger.error(f"{other} should be a copy of {path} and cannot be written: {error}")


def _free_space(folder: str) -> str:
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder) or "."
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free on the disk of {folder}"


def out_of_patience(cfg: Any, trainer: Any, val_loss: float) -> bool:
    """Whether checkpoint.patience validations in a row, this one the last of them, brought no better value."""
    trainer.run_record.observe(val_loss, trainer.get_num_updates())
    if not trainer.run_record.out_of_patience(cfg.patience):
        return False
    logger.info(f"early stop since valid performance hasn't improved for last {cfg.patience} runs")
    return True


def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointWriteError: the disk is full or refuses.
        ValueError: `async_write`, which is not offered.
    """
    if async_write:
        raise ValueError("checkpoint.write_checkpoints_asynchronously is not offered: leave it false.")
    io.save(obj, filename)


def verify_checkpoint_directory(save_dir: str) -> None:
    """Make the folder and try to write into it, so that a run fails before its first update rather than after hours.

    Raises:
        ValueError: it cannot be made or written.
    """
    probe = os.path.join(save_dir, f".writable.{os.getpid()}")
    try:
        os.makedirs(save_dir, exist_ok=True)
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise ValueError(
            f"checkpoint.save_dir is {save_dir}: cannot write there ({error.strerror or error})."
        ) from error


@contextlib.contextmanager
def save_dir_held(cfg: Any, writes: bool) -> Iterator[None]:
    """Within, no other run writes to `checkpoint.save_dir`; see `fairseq.checkpoint.lock`.

    Args:
        writes: whether this process is the one that writes; the others only pass.
    Raises:
        ConfigError: another run is in that folder.
    """
    held = lock.FolderLock(cfg.save_dir)
    if writes:
        try:
            os.makedirs(cfg.save_dir, exist_ok=True)
            held.acquire()
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        except OSError as error:  # `verify_checkpoint_directory` refuses it, unless nothing is to be saved
            logger.debug(f"no lock in {cfg.save_dir}: {error}")
    try:
        yield
    finally:
        held.release()


# -- continuing --------------------------------------------------------------------------------------------------------


def load_checkpoint(cfg: Any, trainer: Any, **passthrough_args: Any) -> tuple[Optional[dict[str, Any]], Any]:
    """Put a run where it was, or where `checkpoint.restore_file`, `finetune_from_model` or `continue_once` say; one log
    line tells which.

    Args:
        cfg: the config group `checkpoint`.
        trainer: gives `cfg`, `task`, `get_train_iterator(epoch=, load_dataset=)`, `load_state_dict(state,
            reset_optimizer=, reset_lr_scheduler=, reset_meters=, optimizer_overrides=)`, `is_data_parallel_master`;
            receives `run_record`.
        passthrough_args: more arguments of `get_train_iterator`.
    Returns:
        the checkpoint's extra_state (None without a checkpoint) and the training iterator at its place.
    Raises:
        ValueError: settings that exclude each other, a missing or damaged file, or a config that differs from the run's
            own checkpoint.
    """
    overrides = source.optimizer_overrides(cfg)
    trainer.run_record = RunRecord(cfg.maximize_best_checkpoint_metric)
    if trainer.is_data_parallel_master and os.path.isdir(cfg.save_dir):
        io.remove_temporaries(cfg.save_dir)
    found = source.find(cfg)
    if found.path is None:
        logger.info(found.note)
        return None, trainer.get_train_iterator(epoch=1, load_dataset=True, **passthrough_args)
    state = io.load(found.path)
    with building.naming(found.path, "the run cannot continue from its entries"):
        extra_state, epoch_itr, place = _restore(found, state, trainer, overrides, **passthrough_args)
    if found.continues and trainer.is_data_parallel_master and not cfg.no_save:
        _complete_last_save(cfg, found.path, trainer.run_record, trainer.get_num_updates())
    if all(found.resets) and not found.own:
        trainer.run_record.updates_before = _updates_before(state) if cfg.continue_pretraining else 0
    logger.info(_what_was_loaded(found, state, place))
    return extra_state, epoch_itr


def _restore(
    found: source.Source, state: dict[str, Any], trainer: Any, overrides: dict[str, Any], **passthrough_args: Any
) -> tuple[dict[str, Any], Any, Optional[dict[str, Any]]]:
    """Put a checkpoint into the trainer, its record and a training iterator; returns extra_state, the iterator and
    its saved place.
    """
    saved_extra, resets = state.get("extra_state") or {}, found.resets
    place = None if resets.dataloader else saved_extra.get("train_iterator")
    epoch_itr = trainer.get_train_iterator(
        epoch=1 if place is None else place["epoch"], load_dataset=True, **passthrough_args
    )
    _compare(found, state, trainer)
    try:
        extra_state = trainer.load_state_dict(
            state,
            reset_optimizer=resets.optimizer,
            reset_lr_scheduler=resets.lr_scheduler,
            reset_meters=resets.meters,
            optimizer_overrides=overrides,
        )
    except compare.WeightsDoNotFit as error:
        raise ValueError(compare.misfit(found.path, found.note, state.get("cfg"), trainer.cfg, str(error))) from error
    trainer.run_record.load_state_dict(saved_extra, reset_best=resets.optimizer or resets.meters)
    trainer.run_record.started_from = found.started_from or trainer.run_record.started_from
    trainer.run_record.continues = found.continues
    if place is not None:
        epoch_itr.load_state_dict(place)
    return extra_state, epoch_itr, place


def _updates_before(state: dict[str, Any]) -> int:
    """Updates that a checkpoint's weights went through, those of pre-training that it continued itself too."""
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0) + _record_of(state).get("updates_before", 0)


def _record_of(state: dict[str, Any]) -> dict[str, Any]:
    return (state.get("extra_state") or {}).get("run_record") or {}


def _compare(found: source.Source, state: dict[str, Any], trainer: Any) -> None:
    """Decision 6: the run's own checkpoint must have the command's model and task; for another's, differences are
    listed.

    Call it after the training data is loaded: a moved data folder is no difference if both manifests list the same.
    """
    same = same_data((state.get("extra_state") or {}).get("data_fingerprint"), trainer.task.data_fingerprint())
    differing = compare.differences(state.get("cfg"), trainer.cfg, same_data=same is True)
    only_weights = all(found.resets)
    if differing and found.own and not only_weights:
        raise ValueError(compare.refusal(found.path, differing))
    if differing:
        logger.info(
            f"the config differs from that of {found.path} (checkpoint -> command): {compare.listing(differing)}"
        )
    if found.own and same is False and not only_weights:
        logger.warning(
            f"the manifests list other files than when {found.path} was written: the run goes on with the new ones"
        )


def same_data(saved: Any, now: Any) -> Optional[bool]:
    """Whether the splits that both fingerprints know list the same; None where they have none in common."""
    if not isinstance(saved, dict) or not isinstance(now, dict):
        return None if saved is None or now is None else saved == now
    common = saved.keys() & now.keys()
    return all(saved[split] == now[split] for split in common) if common else None


def _what_was_loaded(found: source.Source, state: dict[str, Any], place: Optional[dict[str, Any]]) -> str:
    history = state.get("optimizer_history") or [{}]
    updates = history[-1].get("num_updates", 0)
    epoch = "" if place is None else f"epoch {place['epoch']}, "
    reset = found.resets.names()
    notes = ([found.note] if found.note else []) + ([f"started anew: {', '.join(reset)}"] if reset else [])
    return f"loaded checkpoint {found.path} ({epoch}{updates} updates)" + "".join(f"; {note}" for note in notes)


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
        if not formats.is_folder(path):
            raise ValueError(f"model.w2v_path is {path}: this folder is none of transformers, it has no config.json.")
        state = portable_model.to_checkpoint(formats.read(path, io.read))
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
        model.updates_before = _record_of(loaded).get("updates_before", 0)
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
