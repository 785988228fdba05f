"""Set the environment variables that Gaudi's software reads at import, before it is imported.

Plain functions of (config, environment): nothing here imports the vendor's package. Call `prepare` in the process that
will own the card, before `HpuDevice.claim` imports the package there: in the child if processes are spawned, never in
their parent or in a data-loading worker. Variables that the user set are kept.

Names and defaults: Intel's runtime flags, and the open-source bridge of release 1.19.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from fairseq.device.base import Note

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
PLUGIN = "habana-torch-plugin"  # distribution of the vendor's package; its version is the software's release
# software, by two or three numbers -> torch releases in its containers (Intel's support matrix)
TORCH_OF_SOFTWARE: dict[str, list[str]] = {
    "1.19": ["2.5"],
    "1.20": ["2.6"],
    "1.21": ["2.6"],
    "1.22": ["2.7"],
    "1.23": ["2.9"],
    "1.24.0": ["2.10"],
    "1.24.1": ["2.11"],
}
OLDEST, NEWEST = "1.19", "1.24"
EAGER_CONFIG = "wav2vec2_base_librispeech_hpu_eager"

LAZY_MODE = "PT_HPU_LAZY_MODE"
COMPILED_AUTOGRAD = "PT_HPU_ENABLE_COMPILED_AUTOGRAD"
LOWER_LIST = "PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST"
FP32_LIST = "PT_HPU_AUTOCAST_FP32_OPS_LIST"
_HALF_KEYS = ("hmp", "bf16", "memory_efficient_bf16", "fp16", "memory_efficient_fp16", "amp")
# in the package's folder, next to the recipe's lists
DEFAULT_LISTS = {LOWER_LIST: "ops_bf16_wav2vec2.txt", FP32_LIST: "ops_fp32_wav2vec2.txt"}


class Variable(NamedTuple):
    """An environment variable that is set unless the user has set it."""

    name: str
    value: str
    reason: str
    releases: str  # of Gaudi's software that it affects


def is_lazy(environ: Mapping[str, str]) -> bool:
    """Whether the bridge records graphs: for any value but "0", as the bridge reads it.

    `prepare` always sets the variable, as the default is eager from 1.21 on.
    """
    return environ.get(LAZY_MODE, "1") != "0"


def compiles_autograd(environ: Mapping[str, str]) -> bool:
    """Whether the vendor's package turns on compiled autograd at import."""
    return environ.get(COMPILED_AUTOGRAD, "0").lower() in ("1", "true", "on", "yes")


def stock_torch_in_lazy_mode(environ: Mapping[str, str], torch_version: str) -> str | None:
    """Return why the vendor's package would refuse to be imported, and what to do; None if it would not.

    Only Intel's build of torch has lazy mode; the local part of its version begins with "git". Each release has two
    container images, and the second has stock PyTorch.
    """
    if not is_lazy(environ) or torch_version.partition("+")[2].startswith("git") or not _is_vendors_package():
        return None
    return (
        f"common.hpu_lazy_mode=true needs Intel's build of PyTorch, but this is stock PyTorch {torch_version}, which "
        f"has eager mode only. For eager mode, use --config-name {EAGER_CONFIG} (or "
        f"common.hpu_lazy_mode=false, with {LAZY_MODE} unset or 0). For lazy mode, use the container with Intel's "
        "build, whose torch version ends in +git and a commit."
    )


def _is_vendors_package() -> bool:
    """Whether the installed package is Intel's: it has a file with the torch version that it was built for."""
    spec = importlib.util.find_spec("habana_frameworks")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return any(Path(folder, "torch", "required_version.txt").is_file() for folder in folders)


def prepare(common: Any, environ: MutableMapping[str, str]) -> list[Note]:
    """Set the variables that the vendor's package reads at import.

    `fairseq.device.select` calls it just before the import. A second call changes nothing and returns the same lines.

    Args:
        common: the config group `common`; `find_op_list` finds `hmp_bf16` and `hmp_fp32`.
        environ: `os.environ`, or a dict in tests. With several processes it must have RANK, LOCAL_RANK and WORLD_SIZE,
            from the launcher or from the process that spawned this one.
    Returns:
        Lines for the log.
    Raises:
        ValueError: an op list does not exist.
    """
    notes = _set_lazy_mode(common, environ)
    for variable in [*_fixed(), *recipe_cache(environ)]:
        environ.setdefault(variable.name, variable.value)
    if common.hpu_compiled_autograd:
        environ.setdefault(COMPILED_AUTOGRAD, "1")
    notes += _set_op_lists(common, environ)
    if int(environ.get("WORLD_SIZE", "1")) > 1:
        _choose_card(environ)
    return notes


def _set_lazy_mode(common: Any, environ: MutableMapping[str, str]) -> list[Note]:
    wanted = "1" if common.hpu_lazy_mode else "0"
    found = environ.setdefault(LAZY_MODE, wanted)
    if is_lazy(environ) == bool(common.hpu_lazy_mode):
        return []
    mode = "lazy" if is_lazy(environ) else "eager"
    return [
        Note(
            f"{LAZY_MODE}={found} in the environment takes precedence over common.hpu_lazy_mode="
            f"{str(bool(common.hpu_lazy_mode)).lower()}: this run is in {mode} mode. Unset the variable or change the "
            "key.",
            True,
        )
    ]


def _fixed() -> list[Variable]:
    return [
        Variable(
            "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES",
            "0",
            "buckets limit the shapes of batches already; the bridge must not derive dynamic ones",
            "on by default before 1.14",
        ),
        Variable(
            "HABANA_PGM_LRU_MAX",
            "100000",
            "the graphs of all buckets stay in memory; an evicted one would be compiled again",
            "default 30000 in lazy mode up to 1.24",
        ),
    ]


def recipe_cache(environ: Mapping[str, str]) -> list[Variable]:
    """Return the variable for a folder of compiled graphs, which all local ranks and later runs share.

    It applies to all releases. The older PT_RECIPE_CACHE_PATH (in the recipe's command) also names the folder; it is
    repeated in the form that 1.14 and later read. Nothing is deleted at the start: a rank that starts late would delete
    what another has just compiled.

    Raises:
        ValueError: no folder is given, and no default folder is writable by this user only.
    """
    if "PT_HPU_RECIPE_CACHE_CONFIG" in environ:
        return []
    folder = environ.get("PT_RECIPE_CACHE_PATH")
    if folder is None:
        folder = _private_folder()
        delete, megabytes = "false", "4096"
    else:
        folder = os.path.abspath(folder)
        delete, megabytes = (
            environ.get("PT_CACHE_FOLDER_DELETE", "false"),
            environ.get("PT_CACHE_FOLDER_SIZE_MB", "1024"),
        )
    reason = "graphs are compiled once per machine, not once per rank"
    return [Variable("PT_HPU_RECIPE_CACHE_CONFIG", f"{folder},{delete},{megabytes}", reason, "all")]


def _private_folder() -> str:
    """Return a folder that only this user can write, since the device runs its contents.

    It is in the temporary directory, or in the home directory if that name is taken.
    """
    name = f"fairseq_hpu_recipes_{os.getuid()}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    places = [os.path.join(tempfile.gettempdir(), name), os.path.join(home, name)]
    for folder in places:
        if is_private(folder):
            return folder
    raise ValueError(
        f"no folder for compiled graphs: {' and '.join(places)} cannot be created, are links, or are writable by "
        "other users. Set PT_RECIPE_CACHE_PATH=FOLDER to a folder that only you can write."
    )


def is_private(folder: str) -> bool:
    """Whether a folder, created if missing, is a real directory that only this user can write.

    Call this right before using the folder.
    """
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)  # of a link itself
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _choose_card(environ: MutableMapping[str, str]) -> None:
    """Set the name of HCCL's log files and the card of this process, which HCCL reads at import."""
    local_rank = int(environ["LOCAL_RANK"])
    modules = visible_modules(environ)
    environ.setdefault("ID", environ["RANK"])
    environ.setdefault("HLS_MODULE_ID", modules[local_rank] if local_rank < len(modules) else str(local_rank))


def visible_modules(environ: Mapping[str, str]) -> list[str]:
    """Cards that HABANA_VISIBLE_MODULES ("0,1,4") allows on this machine; empty if it is not set."""
    return [name.strip() for name in environ.get("HABANA_VISIBLE_MODULES", "").split(",") if name.strip()]


# -- op lists of mixed precision ---------------------------------------------------------------------------------------


def find_op_list(name: str, config_folders: Sequence[str] = ()) -> Path:
    """Return the file that `common.hmp_bf16` or `hmp_fp32` names.

    A relative path is searched for in the config's folder, the working directory and the package, in this order. The
    package has the recipe's two lists, ops_bf16.txt and ops_fp32.txt; files of these names next to the config take
    precedence.

    Raises:
        ValueError: there is no such file.
    """
    folders = [*map(Path, config_folders), Path.cwd(), PACKAGE_FOLDER]
    for folder in folders:
        path = (folder / Path(name).expanduser()).resolve()
        if path.is_file():
            return path
    places = ", ".join(str(folder) for folder in folders)
    raise ValueError(
        f"op list {name!r}: no such file in {places}. Give a file with one operator per line, such as ops_bf16.txt."
    )


def locate_op_lists(common: Any, config_folders: Sequence[str]) -> None:
    """Make the op lists in `common` absolute paths, while the config's folder is known.

    Processes that start later know only the working directory. The name of a missing file stays unchanged; the config's
    check reports it.
    """
    for key in ("hmp_bf16", "hmp_fp32"):
        if common[key]:
            with contextlib.suppress(ValueError):
                common[key] = str(find_op_list(common[key], config_folders))


def read_op_list(path: Path) -> list[str]:
    """Read an op list's operators as the bridge does: one name per line, without spaces.

    Raises:
        ValueError: a line is not a name.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.isidentifier():
            raise ValueError(
                f"{path}, line {number} is {line!r}: it must be one operator's name, without spaces or comments."
            )
    return lines


def _set_op_lists(common: Any, environ: MutableMapping[str, str]) -> list[Note]:
    """Set both lists for runs in mixed precision; the bridge's own run (log_)softmax, mean and mul in bf16."""
    if not any(common[key] for key in _HALF_KEYS):
        return []
    asked = {LOWER_LIST: ("hmp_bf16", common.hmp_bf16), FP32_LIST: ("hmp_fp32", common.hmp_fp32)}
    notes = []
    for variable, (key, name) in asked.items():
        wanted = find_op_list(name) if common.hmp and name else PACKAGE_FOLDER / DEFAULT_LISTS[variable]
        given = environ.setdefault(variable, str(wanted))
        if common.hmp and name and Path(given).resolve() != wanted:
            notes.append(
                Note(f"{variable}={given} in the environment takes precedence over common.{key}={name}.", True)
            )
        if common.hmp_verbose and Path(given).is_file():
            precision = "bf16" if variable == LOWER_LIST else "fp32"
            notes.append(
                Note(f"operators that autocast runs in {precision} ({given}): {' '.join(read_op_list(Path(given)))}")
            )
    both = [environ[variable] for variable in asked if Path(environ[variable]).is_file()]
    if len(both) == 2 and (twice := sorted(set(read_op_list(Path(both[0]))) & set(read_op_list(Path(both[1]))))):
        notes.append(Note(f"{', '.join(twice)}: in both op lists; the bridge uses the lower precision.", True))
    return notes


# -- lines for the log -------------------------------------------------------------------------------------------------


def software_version() -> str | None:
    """Release of Gaudi's software in this environment, such as 1.21.0.555; None if it is not installed."""
    try:
        return metadata.version(PLUGIN)
    except metadata.PackageNotFoundError:
        return None


def check_versions(software: str | None, torch_version: str) -> list[Note]:
    """Warn if Gaudi's software and torch are not a pair that Intel supports."""
    if software is None:
        return [Note(f"the version of Gaudi's software is unknown: the distribution {PLUGIN} is not installed", True)]
    numbers = software.split(".")
    torch_release = ".".join(torch_version.split(".")[:2])
    supported = TORCH_OF_SOFTWARE.get(".".join(numbers[:3])) or TORCH_OF_SOFTWARE.get(".".join(numbers[:2]))
    if supported is None:
        return [Note(f"Gaudi's software {software} is not one of {OLDEST} to {NEWEST}, the known releases", True)]
    if torch_release not in supported:
        pair = f"comes with torch {' or '.join(supported)}, but this is torch {torch_version}"
        return [Note(f"Gaudi's software {software} {pair}: Intel does not support this pair", True)]
    return []


def in_effect(environ: Mapping[str, str]) -> Note:
    """List the vendor's variables that are set, in one line."""
    prefixes = ("PT_", "HABANA_", "HLS_", "HCCL_", "HCL_")
    values = [f"{name}={value}" for name, value in sorted(environ.items()) if name.startswith(prefixes)]
    return Note("Gaudi's variables in effect: " + " ".join(values))
