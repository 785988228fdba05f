"""Packaging of fairseq-hpu: pure Python, nothing is compiled.

`pip install --editable .` and `python setup.py develop` do the same, in either order.
"""

import os
import runpy
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
INSTALLED = runpy.run_path(str(ROOT / "fairseq" / "installed.py"))
RECURSION_GUARD = "FAIRSEQ_HPU_INSIDE_DEVELOP"
FIRST_SETUPTOOLS_WITH_EDITABLE = 71  # 64 builds editable wheels; up to 70.0 that needs `wheel` beside it


def build_tools_are_here() -> bool:
    """True where the environment's own setuptools can build the editable wheel, so that pip need not fetch one."""
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= FIRST_SETUPTOOLS_WITH_EDITABLE
    except (metadata.PackageNotFoundError, ValueError):
        return False


def develop() -> int:
    """`setup.py develop`, which setuptools has retired, by way of pip; needs neither network nor setuptools beyond
    what pip needs.
    """
    if os.environ.get(RECURSION_GUARD):
        raise SystemExit(
            "this pip runs `setup.py develop` for editable installs: it is too old, upgrade it (pip>=21.3)"
        )
    command = [sys.executable, "-m", "pip", "install", "--editable", str(ROOT)]
    if build_tools_are_here():
        command.append("--no-build-isolation")
    return subprocess.call(command, env={**os.environ, RECURSION_GUARD: "1"})


def refuse_rivals() -> None:
    """Stops an editable install that could not be imported: a package folder in site-packages goes before an
    editable one.
    """
    # pip's isolated builds hide the environment from sys.path, not from sysconfig
    rivals = INSTALLED["rivals"]([sysconfig.get_path("purelib")])
    if rivals:
        raise SystemExit(INSTALLED["describe"](rivals))


if __name__ == "__main__" and sys.argv[1:2] == ["develop"]:
    sys.exit(develop())

from setuptools import find_namespace_packages, find_packages, setup  # noqa: E402
from setuptools.command.editable_wheel import editable_wheel  # noqa: E402


class EditableWheel(editable_wheel):
    """Editable install that notices another distribution of the same package name."""

    def run(self) -> None:
        refuse_rivals()
        super().run()


setup(
    name="fairseq-hpu",
    version=(ROOT / "fairseq" / "version.txt").read_text(encoding="utf-8").strip(),
    description="wav2vec 2.0 pre-training with fairseq's commands, configs and checkpoints, on CPU, CUDA and HPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the fairseq-hpu authors",
    license="MIT",
    python_requires=">=3.10,<3.14",
    # hydra_plugins itself too, though it holds nothing: else hydra, which looks through its folders, misses that of an
    # editable install
    packages=find_packages(include=["fairseq", "fairseq.*", "fairseq_cli", "fairseq_cli.*"])
    + find_namespace_packages(include=["hydra_plugins*"]),
    # fairseq/examples is a link to examples, as in fairseq's own checkout: a wheel has the stock YAMLs and scripts
    # under fairseq/examples
    package_data={
        "fairseq": [
            "version.txt",
            "ops_*.txt",
            "config/**/*.yaml",
            "preflight/tables/*.txt",
            "examples/wav2vec/*.py",
            "examples/wav2vec/config/*/*.yaml",
            "examples/wav2vec/config/*/ops_*.txt",
        ]
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "torch>=2.5",
        "hydra-core>=1.3",
        "omegaconf>=2.3",
        "soundfile",
        "numpy>=1.26",
        "tqdm",
        "jiwer>=4",
    ],
    extras_require=INSTALLED["EXTRAS"],
    entry_points={
        "console_scripts": [
            "fairseq-average-checkpoints = fairseq_cli.average_checkpoints:cli_main",
            "fairseq-convert = fairseq_cli.convert:cli_main",
            "fairseq-extract = fairseq_cli.extract:cli_main",
            "fairseq-hydra-train = fairseq_cli.hydra_train:cli_main",
            "fairseq-infer = fairseq_cli.infer:cli_main",
            "fairseq-libri-labels = fairseq_cli.scripts:libri_labels",
            "fairseq-make-ngram = fairseq_cli.scripts:make_ngram",
            "fairseq-manifest = fairseq_cli.scripts:manifest",
            "fairseq-preflight = fairseq_cli.preflight:cli_main",
            "fairseq-prepare-labels = fairseq_cli.scripts:prepare_labels",
            "fairseq-train = fairseq_cli.fairseq_train:cli_main",
            "fairseq-transcribe = fairseq_cli.transcribe:cli_main",
            "fairseq-validate = fairseq_cli.validate:cli_main",
        ]
    },
    cmdclass={"editable_wheel": EditableWheel},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
