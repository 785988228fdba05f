"""What was typed after `fairseq-hydra-train`, put into the form that hydra accepts.

Hydra takes overrides in one run only, tells `key=value` (in the YAML) from `+key=value` (not in it), and refuses parentheses without
quotes. Here overrides may stand anywhere, need no plus, and a value that hydra cannot read is taken as text.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--experimental-rerun",
)
_WITHOUT_VALUE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc")
_INFO = ("--info", "-i")
_INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # --info takes one of these or nothing
_LOCAL_RANK = ("--local_rank", "--local-rank")  # torch.distributed.launch appends one of them, by its version
OPTIONS = (*_WITH_VALUE, *_WITHOUT_VALUE, *_INFO, *_LOCAL_RANK)
_LONG_NAMES = {"-cd": "--config-dir", "-cn": "--config-name", "-cp": "--config-path", "-c": "--cfg", "-p": "--package", "-m": "--multirun"}


class CommandLine(NamedTuple):
    """A command's arguments, sorted."""

    overrides: list[str]  # key=value, +key=value, ~key ..., in the order typed
    options: dict[str, str | None]  # hydra's own options by their long names; None for those without a value
    local_rank: str | None

    def arguments(self) -> list[str]:
        """The arguments in the order that hydra wants: overrides in one run, then its options."""
        flat = list(self.overrides)
        for name, value in self.options.items():
            flat += [name] if value is None else [name, value]
        return flat


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Sort arguments (without the program's name) into overrides, hydra's options and the launcher's local rank.

    Raises:
        ValueError: an option that wants a value has none.
    """
    overrides: list[str] = []
    options: dict[str, str | None] = {}
    local_rank = None
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            overrides.append(word)
            continue
        if word == "--":
            continue
        name, equals, value = word.partition("=")
        name = _whole_option(name)
        if name in _INFO:
            topic = value if equals else (rest.pop(0) if rest and rest[0] in _INFO_TOPICS else "all")
            options["--info"] = topic
        elif name in _WITH_VALUE or name in _LOCAL_RANK:
            if not equals:
                if not rest:
                    raise ValueError(f"{name} wants a value after it.")
                value = rest.pop(0)
            if name in _LOCAL_RANK:
                local_rank = value
            else:
                options[_LONG_NAMES.get(name, name)] = value
        else:
            options[_LONG_NAMES.get(word, word)] = None
    return CommandLine(overrides, options, local_rank)


def split_off_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words that hydra has no option for, hydra's own options with their values), each in the order typed."""
    others: list[str] = []
    own: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name = _whole_option(word.partition("=")[0])
        if name not in OPTIONS:
            others.append(word)
            continue
        own.append(word)
        takes_next = name in _WITH_VALUE or name in _LOCAL_RANK or (name in _INFO and rest and rest[0] in _INFO_TOPICS)
        if takes_next and "=" not in word and rest:
            own.append(rest.pop(0))
    return others, own


def _whole_option(name: str) -> str:
    """The option that an unambiguous beginning of its name means, as argparse has it."""
    known = [*_WITH_VALUE, *_WITHOUT_VALUE, *_INFO, *_LOCAL_RANK]
    if name in known or not name.startswith("--"):
        return name
    meant = [option for option in known if option.startswith(name)]
    return meant[0] if len(meant) == 1 else name


def primary_config(options: dict[str, str | None], package_folder: Path) -> dict[str, Any]:
    """Content of the YAML file that `--config-name` means, as plain values; empty if there is none (hydra then says so).

    Raises:
        ValueError: it cannot be read, or is no YAML; names file and line.
    """
    from omegaconf import OmegaConf
    from yaml import MarkedYAMLError, YAMLError

    name = options.get("--config-name") or "config"
    file_name = name if name.endswith((".yaml", ".yml")) else name + ".yaml"
    folders = [options.get("--config-path") or package_folder, options.get("--config-dir")]
    for folder in folders:
        path = Path(folder or "") / file_name
        if folder and path.is_file():
            try:
                content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            except MarkedYAMLError as error:
                line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
                what = error.problem or error.context
                raise ValueError(f"{path}{line} is not YAML: {what}. (Inside braces, ??? must be quoted: '???'.)") from error
            except (YAMLError, OSError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from error
            return content if isinstance(content, dict) else {}
    return {}


def with_stock_folder(options: dict[str, str | None], package_folder: Path) -> dict[str, str | None]:
    """Options with --config-dir set to the folder of stock YAMLs, examples/wav2vec/config/*, that has the named one, if none was typed."""
    name = options.get("--config-name")
    if name is None or options.get("--config-dir") is not None or options.get("--config-path") is not None:
        return options
    file_name = name if name.endswith((".yaml", ".yml")) else name + ".yaml"
    if (package_folder / file_name).is_file():
        return options
    stock = package_folder.parents[1] / "examples" / "wav2vec" / "config"
    for folder in sorted(stock.glob("*/")):
        if (folder / file_name).is_file():
            return {**options, "--config-dir": str(folder)}
    return options


def groups_in_defaults(config: dict[str, Any]) -> set[str]:
    """Config groups that a YAML's defaults list selects from; hydra wants `+group=name` for the others."""
    groups = set()
    for entry in config.get("defaults") or []:
        if isinstance(entry, dict):
            groups |= {str(key).split()[-1].split("@")[0].strip("/") for key in entry}  # "override hydra/launcher", "model@package"
    return groups


def override_value(overrides: Sequence[str], key: str) -> str | None:
    """What the last override of `key` sets, without quotes; None if none does."""
    found = None
    for word in overrides:
        name, equals, value = word.lstrip("+").partition("=")
        if equals and name == key:
            found = value.strip("'\"")
    return found


def normalise_override(word: str, groups: Container[str], in_defaults: Container[str]) -> str:
    """One override in the form that hydra accepts, whether or not the YAML names its key.

    Args:
        word: as typed: key=value, +key=value, ++key=value, ~key, group=name.
        groups: names of config groups (model, optimizer ...), which are selected and not set.
        in_defaults: those of them that the YAML's defaults list has.
    """
    if word.startswith("~") or "=" not in word:
        return word
    key, _, value = word.lstrip("+").partition("=")
    group = key.split("@")[0]
    if group.split("/")[0].split(".")[0] == "hydra":
        return word
    if group in groups and not value.startswith("{"):
        return readable(f"{key}={value}") if group in in_defaults else readable(f"+{key}={value}")
    if "/" in key or "@" in key:
        return word
    return readable(f"++{key}={value}")


def readable(override: str) -> str:
    """The override itself if hydra's grammar can read it, else with its value quoted: (0.9,0.98), a path with brackets."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        parser.parse_override(override)
        return override
    except HydraException:
        key, _, value = override.partition("=")
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        quoted = f"{key}='{escaped}'"
    try:
        parser.parse_override(quoted)
        return quoted
    except HydraException:
        return override  # hydra's own message tells what is wrong with the key


def absolute_paths(options: dict[str, str | None]) -> dict[str, str | None]:
    """Options with --config-path counted from where the command was typed (hydra counts it from the program's own file)."""
    path = options.get("--config-path")
    if path is None or "://" in path or os.path.isabs(path) or not os.path.isdir(path):
        return options
    return {**options, "--config-path": os.path.abspath(path)}
