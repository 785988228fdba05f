"""The package's extras, and a check for other distributions that install a package named `fairseq`.

Two of them in one environment overwrite or hide each other, so that the wrong one may run. This file imports nothing
of the package, so that `setup.py` can run it before anything is installed.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable

OWN_NAME = "fairseq-hpu"
# The packages of each extra. `pip install 'fairseq-hpu[...]'` cannot work, since it is not on PyPI; see `advice`
EXTRAS = {
    "convert": ["transformers>=4.46", "safetensors", "huggingface_hub"],
    # flashlight-text has KenLM inside, and no wheels for Python 3.13 and later. `kenlm` itself has no wheels at all
    "decode": ["ufal-kenlm>=26.4", "flashlight-text>=0.0.7; python_version < '3.13'"],
    "demo": ["espeakng-loader", "soxr"],
    # pinned: each release of a checker reports different problems
    "dev": ["pre-commit", "pyright[nodejs]==1.1.414", "pytest", "pytest-timeout", "pytest-xdist>=3.7", "ruff==0.17.6"],
    # the last versions for Python 3.10; mkdocstrings 1.0 does not work with pymdown-extensions 12 or later
    "docs": [
        "mkdocs==1.6.1",
        "mkdocs-material==9.7.7",
        "mkdocstrings==1.0.6",
        "mkdocstrings-python==2.0.9",
        "pymdown-extensions==11.0.2",
        "griffelib==2.3.0",
    ],
    "hf": ["pyarrow"],  # data sets of Hugging Face are read without `datasets`
    # preinstalled in Gaudi's containers, for their torch; elsewhere the extra cannot be installed
    "hpu": ["habana-torch-plugin"],
    "lhotse": ["lhotse"],
    "mlflow": ["mlflow>=2.14"],
    "onnx": ["onnx", "onnxruntime"],
    "parquet": ["pyarrow"],
    # it carries uPlot 1.6.31, unchanged, for the plots in pages; fairseq/pages/assets.py checks the files
    "report": ["youplot==1.0.0"],
    "resample": ["soxr"],
    "s3": ["s3fs>=2023.10"],
    "slurm": ["submitit>=1.5"],
    "tensorboard": ["tensorboard"],
    # earlier releases require torchaudio, which would replace torch
    "vad": ["silero-vad>=6.2.3", "onnxruntime", "soxr"],
    "wandb": ["wandb>=0.18"],
}
PACKAGE = "fairseq"
# such as fairseq-fixed: the name of every known rival starts with the package's. Reading all metadata would take longer
# than the import. The folder of an old-style development install has no version.
METADATA_FOLDER = re.compile(r"^(fairseq[\w.]*?)(?:-([^-]+))?(?:-[^-]+)*\.(?:dist|egg)-info$", re.IGNORECASE)


def advice(extra: str) -> str:
    """The command that installs an extra's packages by name, which works however this package was installed."""
    return "pip install " + " ".join(_quoted(name) for name in EXTRAS[extra])


def _quoted(requirement: str) -> str:
    if not re.search(r"[<>=]", requirement):
        return requirement
    return f'"{requirement}"' if "'" in requirement else f"'{requirement}'"


def _ships_the_package(metadata_path: str) -> bool:
    """Whether the distribution described in this folder installs the top-level package (fairseq2 does not)."""
    try:
        with open(os.path.join(metadata_path, "top_level.txt"), encoding="utf-8") as lines:
            return PACKAGE in lines.read().split()
    except OSError:
        pass
    try:
        with open(os.path.join(metadata_path, "RECORD"), encoding="utf-8") as lines:
            return any(line.startswith(PACKAGE + "/") for line in lines)
    except OSError:
        return False


def rivals(search_path: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Find other distributions that install the package `fairseq`.

    Args:
        search_path: folders to look in; None: `sys.path`.
    Returns:
        (name, version) of each, in order of discovery.
    """
    found: dict[str, str] = {}
    for folder in sys.path if search_path is None else search_path:
        try:
            names = os.listdir(folder or ".")
        except OSError:  # an archive, or a missing folder
            continue
        for entry in names:
            match = METADATA_FOLDER.match(entry) if entry.lower().startswith(PACKAGE) else None
            if match is None:
                continue
            name = re.sub(r"[-_.]+", "-", match.group(1)).lower()
            if name != OWN_NAME and name not in found and _ships_the_package(os.path.join(folder, entry)):
                found[name] = match.group(2) or "(development install)"
    return list(found.items())


def describe(found: list[tuple[str, str]]) -> str:
    """A message that names the rivals and says what to do."""
    names = ", ".join(f"{name} {version}" for name, version in found)
    remove = " ".join(name for name, _ in found)
    return (
        f"another distribution installs a package named `{PACKAGE}` in this environment: {names}. Only one of them "
        "can be imported, and its `fairseq-hydra-train` may be the one that runs. Remove it (pip uninstall "
        f"{remove}) and install {OWN_NAME} again, or use a separate environment for each."
    )


def warn_of_rivals() -> None:
    """Warn if another distribution installs the package; this lists a few folders and parses no metadata."""
    found = rivals()
    if found:
        warnings.warn(describe(found), RuntimeWarning, stacklevel=3)
