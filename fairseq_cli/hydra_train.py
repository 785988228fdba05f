"""`fairseq-hydra-train`: compose a config with hydra, complete and check it, and train."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf, JobConf, RunDir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import fairseq
from fairseq import device as device_layer
from fairseq import stores, utils
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.initialize import add_defaults, hydra_init, resolve_config, try_resolve
from fairseq.dataclass.validate import find_problems
from fairseq.distributed import failures, launch, restarts
from fairseq.distributed.failures import RunFailed
from fairseq.logging import metrics
from fairseq_cli import command_line, config_files, explain_key, old_arguments, yaml_files

logger = logging.getLogger("fairseq_cli.hydra_train")

CONFIG_FOLDER = Path(fairseq.__file__).resolve().parent / "config"
STOCK_FOLDER = CONFIG_FOLDER.parent / "examples" / "wav2vec" / "config"
FULL_ERROR = "HYDRA_FULL_ERROR"
_REPORT = 3.0  # seconds that the first process of a node has to report a problem that all have
_users_full_error = os.environ.get(FULL_ERROR)  # its value before this command sets it


def hydra_main(cfg: DictConfig) -> float | None:
    """Train with the config that hydra composed.

    Returns:
        The last validation value of checkpoint.best_checkpoint_metric, which sweepers optimise; None if another process
        has it.
    Raises:
        ConfigError: all problems of the config, together.
    """
    try:
        run = prepare(cfg)
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":  # a launcher started several processes here: the first reports it
            time.sleep(_REPORT)  # when the first process ends, torchrun ends the others
            failures.last_words(error, "fairseq-hydra-train", is_last=True)  # only this process has the problem
            sys.exit(1)
        raise
    # after prepare, so that config errors are reported without waiting for the trainer's imports
    from fairseq_cli import train

    try:
        status = launch.call_main(run, train.main)
    except Exception:
        if not run.common.suppress_crashes:
            raise
        logger.exception("this run failed; the sweep continues, since common.suppress_crashes is true")
        status = 0
    if status:
        sys.exit(status)
    meters = metrics.get_meters("valid")
    return None if meters is None else meters.get_smoothed_values().get(run.checkpoint.best_checkpoint_metric)


def prepare(cfg: DictConfig) -> DictConfig:
    """Make the whole config of the run, plain values only; one ConfigError reports all problems."""
    run, problems = whole_config(cfg)
    device = device_layer.of_config(run.common)
    devices, recommended = device.count(), device.recommended_count()
    problems += launcher_without_multirun()
    problems += launch.problems_of_place(run)
    problems += find_problems(run, devices, recommended, after=problems).errors  # warnings are train.main's to log
    if problems:
        raise ConfigError(problems)
    own_folder_in_sweep(run)
    return run


def whole_config(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """(what hydra composed, completed and resolved; problems with its keys and types)."""
    utils.import_user_module(_common_of(_unresolved(cfg)))
    drop_leftovers(cfg)
    run, problems = try_resolve(cfg)
    device_layer.hpu_environment.locate_op_lists(run.common, config_folders())
    return run, problems


def config_folders() -> list[str]:
    """Folders where hydra found YAML files: --config-dir, and the package's own folder."""
    if not HydraConfig.initialized():
        return []
    return [
        source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file" and source.path
    ]


def drop_leftovers(cfg: DictConfig) -> None:
    """Remove YAML settings of a class that the command line replaced: for `lr_scheduler=fixed`, the old schedule's."""
    if not HydraConfig.initialized():
        return
    typed = [word.lstrip("+").partition("=") for word in typed_overrides("task")]
    selected = {key: value for key, _, value in typed if value in CONFIG_GROUPS.get(key, {})}
    for group, name in selected.items():
        known = {f.name for f in fields(CONFIG_GROUPS[group][name])} | {
            key.split(".")[1] for key, _, _ in typed if key.startswith(group + ".")
        }
        values = _unresolved(cfg)[group]
        if isinstance(values, dict):  # else try_resolve reports it
            with open_dict(cfg):
                cfg[group] = {key: value for key, value in values.items() if key in known}


def typed_overrides(kind: str) -> list[str]:
    """The overrides of hydra's own keys (kind "hydra") or of the run's ("task") as typed, with interpolations."""
    return _unresolved(HydraConfig.get().overrides)[kind]


def _unresolved(cfg: Any) -> dict[str, Any]:
    """A config as plain containers, with interpolations unresolved."""
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def launcher_without_multirun() -> list[str]:
    """Errors for `hydra/launcher=...` without --multirun, which hydra would ignore."""
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.MULTIRUN:
        return []
    typed = [word for word in typed_overrides("hydra") if word.lstrip("+").startswith("hydra/launcher=")]
    return [f"{word} requires -m (--multirun): add it, or leave out {word} to train here." for word in typed]


def own_folder_in_sweep(run: DictConfig) -> None:
    """With --multirun, put a relative checkpoint.save_dir into the job's folder, or each job would resume the last.

    A store gets a folder for each job, with the job's own name.
    """
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        return
    output, checkpoint = HydraConfig.get().runtime.output_dir, run.checkpoint
    job = os.path.relpath(output).replace(os.pardir + os.sep, "")
    if checkpoint.store is not None:
        checkpoint.store = stores.joined(checkpoint.store, job)
    if stores.is_url(checkpoint.save_dir):
        checkpoint.save_dir = stores.joined(checkpoint.save_dir, job)
    elif not os.path.isabs(checkpoint.save_dir):
        checkpoint.save_dir = os.path.join(output, checkpoint.save_dir)


def show_config(cfg: DictConfig, package: str | None, resolve: bool) -> None:
    """Print the whole config as YAML (`--cfg job`), every group completed from its dataclass."""
    drop_leftovers(cfg)
    if resolve:
        cfg = resolve_config(cfg)
    else:
        add_defaults(cfg)
    shown = cfg if package in (None, "_global_") else OmegaConf.select(cfg, package)
    if shown is None:
        raise ConfigError([f"--package is {package}: the config has no such key."])
    plain = OmegaConf.to_container(shown, resolve=False, enum_to_str=True) if OmegaConf.is_config(shown) else shown
    sys.stdout.write(OmegaConf.to_yaml(plain) if OmegaConf.is_config(shown) else f"{plain}\n")


def store_hydra_settings() -> None:
    """Set hydra's defaults for this command: no change of folder, no output folders, one console log.

    YAML files and overrides take precedence.
    """
    settings = HydraConf(run=RunDir("."), output_subdir=None, job=JobConf(chdir=False))
    replaced = {"job_logging": "fairseq", "help": "fairseq"}
    settings.defaults = [
        {key: replaced.get(key, value) for key, value in entry.items()} if isinstance(entry, dict) else entry
        for entry in settings.defaults
    ]
    ConfigStore.instance().store(group="hydra", name="config", node=settings, provider="fairseq")


def set_up_hydra() -> None:
    """Set up hydra in this process: config groups, defaults, and no warnings about stock YAMLs."""
    hydra_init()
    store_hydra_settings()
    # the stock YAMLs start with old hydra's `# @package _group_`: version_base 1.1 reads it correctly, with warnings
    # that are of no use here
    for message in ("Usage of deprecated keyword in package header", 'version_base="1.1" selects'):
        warnings.filterwarnings("ignore", message=f"(?s).*{message}", category=UserWarning)


def cli_main() -> None:
    """The console command; see `fairseq-hydra-train --help`."""
    run_with_config("fairseq-hydra-train", hydra_main)


def run_with_config(program: str, main: Callable[[DictConfig], Any]) -> None:
    """Compose the config that sys.argv describes and call `main` with it; errors start with the program's name."""
    global _users_full_error
    _users_full_error = full_error = os.environ.get(FULL_ERROR)
    try:
        task = _arrange_arguments(program, main)
        if task is None:
            return
        os.environ[FULL_ERROR] = "1"  # while hydra composes: it raises its errors instead of printing its own report

        @functools.wraps(task)
        def composed(cfg: DictConfig) -> Any:  # a launcher may pickle it: it must not refer to the block below
            _set_environment(FULL_ERROR, full_error)
            return task(cfg)

        with unchecked_help():
            hydra.main(config_path=str(CONFIG_FOLDER), config_name="config", version_base="1.1")(composed)()
    except (ValueError, OSError, HydraException, OmegaConfBaseException, RecursionError, YAMLError) as error:
        if full_error == "1":
            raise
        sys.exit(
            f"{program}: {_of_hydra(error) if isinstance(error, HydraException | OmegaConfBaseException) else error}"
        )
    finally:
        _set_environment(FULL_ERROR, full_error)


@contextmanager
def users_environment() -> Iterator[None]:
    """Restore the user's HYDRA_FULL_ERROR within a block; this command sets it while hydra composes."""
    ours = os.environ.get(FULL_ERROR)
    _set_environment(FULL_ERROR, _users_full_error)
    try:
        yield
    finally:
        _set_environment(FULL_ERROR, ours)


@contextmanager
def unchecked_help() -> Iterator[None]:
    """Let hydra 1.3 make its command line's parser on Python 3.14, within a block.

    The help of its `--shell-completion` is an object that makes the text when it is shown. argparse checks help texts
    from Python 3.14 on, and refuses one that is not a string. In the block, the help is set after the check.
    """
    checked = argparse.ArgumentParser.add_argument

    def add_argument(self: argparse.ArgumentParser, *names: str, **settings: Any) -> argparse.Action:
        shown = settings.pop("help", None)
        action = checked(self, *names, **settings)
        if shown is not None:
            action.help = shown
        return action

    argparse.ArgumentParser.add_argument = add_argument
    try:
        yield
    finally:
        argparse.ArgumentParser.add_argument = checked


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _of_hydra(error: BaseException) -> str:
    """Hydra's message without its list of folders, with omegaconf's reason and the override that it is about."""
    text = str(error).partition("\nConfig search path:")[0].strip() or type(error).__name__
    cause = (
        str(error.__cause__).splitlines()[0]
        if isinstance(error.__cause__, OmegaConfBaseException) and str(error.__cause__)
        else ""
    )
    if "BasicLauncherConf" in text:
        cause = (
            "hydra.launcher keys require a launcher: add hydra/launcher=dependency_submitit_slurm -m (see "
            "docs/slurm.md)."
        )
    quoted = re.search(r"'(\$\{.*?\})'", text)
    about = getattr(error, "override", None) or next(
        (word for word in sys.argv[1:] if quoted is not None and quoted[1] in word), None
    )
    if about is not None and about not in text:
        text = f"{about}: {text}"
    return text if not cause or cause in text else f"{text}\n{cause}"


def _arrange_arguments(program: str, main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any] | None:
    """Rewrite sys.argv for hydra, fill the config groups, and return the function to call with the composed config.

    Returns:
        None if there is nothing left to do, since the command only prints something.
    """
    if any(map(old_arguments.is_option, command_line.split_off_options(sys.argv[1:])[0])):
        raise ValueError(old_arguments.explain(sys.argv[1:], program))
    line = command_line.read_command_line(sys.argv[1:])
    if "--list-configs" in line.options:
        sys.stdout.write(config_files.list_stock(STOCK_FOLDER) + "\n")
        return None
    if line.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", line.local_rank)
    source = config_files.locate(line.options, line.overrides, CONFIG_FOLDER, STOCK_FOLDER)
    yaml, options = source.content(), source.options
    user_dir = command_line.override_value(line.overrides, "common.user_dir")
    utils.import_user_module(CommonConfig(user_dir=user_dir) if user_dir else _common_of(yaml))
    if "--explain-key" in options:
        sys.stdout.write(
            explain_key.explain(options["--explain-key"] or "", yaml, options.get("--config-name") or "") + "\n"
        )
        return None
    set_up_hydra()

    groups = {*CONFIG_GROUPS, *config_files.own_groups(source.folders)}
    in_defaults = set()
    if source.file is not None:
        in_defaults = yaml_files.read_all(
            source.file, command_line.chosen_groups(line.overrides, groups), source.folders
        )
    overrides = [
        command_line.normalise_override(word, groups, in_defaults) for word in line.overrides
    ] + source.overrides
    task = _stop_plainly(program, main)
    if options.get("--cfg") == "job":
        package, resolve = options.pop("--package", None), "--resolve" in options
        options = {name: value for name, value in options.items() if name not in ("--cfg", "--resolve")}
        task = _stop_plainly(program, functools.partial(show_config, package=package, resolve=resolve))
    sys.argv[1:] = line._replace(overrides=overrides, options=options).arguments()
    return task


def _stop_plainly(program: str, task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap `task` to end with a config's problems without a traceback, unless HYDRA_FULL_ERROR is 1."""

    @functools.wraps(hydra_main)  # hydra names the job after the function's file
    def run(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except (ConfigError, RunFailed) as error:
            if os.environ.get(FULL_ERROR) == "1":
                raise
            is_last = restarts.from_environment().is_last
            words = failures.last_words(error, program, is_last)
            repeats = isinstance(error, ConfigError) or error.failure.mistake
            status = 1 if isinstance(error, ConfigError) else error.failure.status
            if status != 1 or (repeats and not is_last):
                print(words, file=sys.stderr, flush=True)  # before torchrun ends this process
                if repeats:
                    restarts.end_torchrun("a restart would fail in the same way")
                sys.exit(status)
            sys.exit(words or 1)

    return run


def _common_of(config: dict[str, Any]) -> CommonConfig:
    """The `common` group with only `user_dir` set, the plug-ins to import."""
    common = config.get("common")
    user_dir = common.get("user_dir") if isinstance(common, dict) else None
    return CommonConfig(user_dir=None if user_dir is None else str(user_dir))


if __name__ == "__main__":
    cli_main()
