"""Find a run's YAML files from --config-name, --config-dir and --config-path, and rewrite these for hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairseq.dataclass.utils import nearest
from fairseq_cli.yaml_files import file_name, read

HydraOptions = dict[str, "str | None"]


class YamlFiles(NamedTuple):
    """The YAML files that the options select."""

    options: HydraOptions  # for hydra: a name and one folder
    overrides: list[str]  # for hydra: the other folders
    folders: list[Path]  # with YAML files and groups of them, in hydra's search order
    file: Path | None  # of --config-name; None if hydra reads it from elsewhere (pkg://)

    def content(self) -> dict[str, Any]:
        """The file's content as plain values. Raises as `yaml_files.read`."""
        return {} if self.file is None else read(self.file)


def locate(options: HydraOptions, overrides: Sequence[str], package_folder: Path, stock: Path) -> YamlFiles:
    """Find the YAML file of --config-name.

    It is searched in the package's own folder, in --config-path and --config-dir, among the stock YAMLs, and as a path
    relative to the current folder.

    Args:
        options: hydra's, as typed. --config-path is relative to the current folder, like all paths here.
        overrides: as typed; hydra.searchpath adds folders.
        package_folder: folder of the package's own YAML files.
        stock: folder of folders of stock YAMLs.
    Raises:
        ValueError: there is no such folder or YAML; the message has the nearest name.
    """
    if "://" in (options.get("--config-path") or ""):
        return YamlFiles(options, [], [package_folder], None)
    options = dict(options)
    typed = [
        Path(folder) for name in ("--config-path", "--config-dir") if (folder := _folder(options, name)) is not None
    ]
    options.pop("--config-path", None)  # it would hide the package's own folder
    further = [*typed, *_search_path(overrides)]
    name = options.get("--config-name")
    file = package_folder / "config.yaml" if name is None else _find(name, further, package_folder, stock)
    if file is None:
        raise ValueError(_not_found(name or "config", further, stock))
    folders = [package_folder, *further]  # hydra's search order
    relative = file_name(name or "config")
    folder = (
        None
        if Path(relative).is_absolute()
        else next((folder for folder in folders if folder / relative == file), None)
    )
    if folder is None:  # a stock YAML, or one named by its path
        folder, options["--config-name"] = file.parent, file.stem if file.suffix == ".yaml" else file.name
        folders.insert(1, folder)
    first = folder if folder in folders[1:] else next(iter(typed), None)
    rest = [other for other in typed if other != first]
    options.pop("--config-dir", None)
    if first is not None:
        options["--config-dir"] = str(first)
    searched = [f"hydra.searchpath=[{','.join(repr(f'file://{other.resolve()}') for other in rest)}]"] if rest else []
    return YamlFiles(options, searched, folders, file)


def _folder(options: HydraOptions, name: str) -> str | None:
    folder = options.get(name)
    if folder is not None and not os.path.isdir(folder):
        here = "" if Path(folder).is_absolute() else f" (relative to {Path.cwd()})"
        raise ValueError(f"{name} is {folder}: there is no such folder{here}.")
    return folder


def _search_path(overrides: Sequence[str]) -> list[Path]:
    """Folders of `hydra.searchpath=[file:///a,file:///b]`."""
    text = next(
        (word.partition("=")[2] for word in reversed(overrides) if word.lstrip("+").startswith("hydra.searchpath=")), ""
    )
    return [Path(folder) for folder in re.findall(r"file://([^\s,'\"\]]+)", text)]


def _find(name: str, folders: Sequence[Path], package_folder: Path, stock: Path) -> Path | None:
    path = Path(file_name(name)).expanduser()
    if path.is_absolute():
        return path if os.path.isfile(path) else None  # unlike Path.is_file, False for a name that is too long
    own = [folder / path for folder in (package_folder, *folders)]
    of_stock = [stock / path, *(folder / path for folder in sorted(stock.glob("*/")))]
    from_here = [path.resolve()] if len(path.parts) > 1 else []
    return next((file for file in (*own, *of_stock, *from_here) if os.path.isfile(file)), None)


def _not_found(name: str, folders: Sequence[Path], stock: Path) -> str:
    files = [
        (folder, file) for folder in folders for pattern in ("*.yaml", "*/*.yaml") for file in folder.glob(pattern)
    ]
    own = {str(file.relative_to(folder).with_suffix("")) for folder, file in files}
    of_stock = [name for names in stock_names_of(stock).values() for name in names]
    place = f"in {', '.join(map(str, folders))} or among" if folders else "among"
    if Path(name).expanduser().is_absolute():
        return f"--config-name is {name}: there is no such file."
    hint = nearest(Path(name).stem, [*own, *of_stock])
    if not hint and own:
        hint = f" Available: {', '.join(sorted(own)[:10])}."
    return (
        f"--config-name is {name}: there is no {file_name(name)} {place} the stock configs (--list-configs lists "
        f"them).{hint}"
    )


def stock_names_of(stock: Path) -> dict[str, list[str]]:
    """Folder -> names of the stock YAMLs in it."""
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in sorted(stock.glob("*/"))}


def list_stock(stock: Path) -> str:
    """The output of `--list-configs`: each stock YAML with its first comment line."""
    lines = []
    for folder, names in stock_names_of(stock).items():
        lines.append(f"{folder}:")
        width = max(map(len, names))
        lines += [f"  {name:{width}}  {_summary(stock / folder / file_name(name))}".rstrip() for name in names]
    return "\n".join(lines)


def _summary(file: Path) -> str:
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")


def own_groups(folders: Iterable[Path]) -> Iterator[str]:
    """Subfolders with YAML files: hydra's config groups, which `group=name` selects from."""
    for folder in folders:
        for file in (*folder.glob("*/*.yaml"), *folder.glob("*/*/*.yaml")):
            yield str(file.parent.relative_to(folder))
