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


# The rest of the metadata is in pyproject.toml. Here is what it cannot say, or not to every setuptools that this must
# work with.
setup(
    # text to setuptools before 77, and an expression (SPDX) to those after: in pyproject.toml each refuses the other's
    license="MIT",
    # hydra_plugins itself too, though it holds nothing: else hydra, which looks through its folders, misses that of an
    # editable install
    packages=find_packages(include=["fairseq", "fairseq.*", "fairseq_cli", "fairseq_cli.*"])
    + find_namespace_packages(include=["hydra_plugins*"]),
    extras_require=INSTALLED["EXTRAS"],
    cmdclass={"editable_wheel": EditableWheel},
)
