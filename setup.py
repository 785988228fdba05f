"""Packaging of fairseq-hpu: pure Python, nothing is compiled.

`pip install --editable .` and `python setup.py develop` do the same.
"""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
INSTALLED = runpy.run_path(str(ROOT / "fairseq" / "installed.py"))
RECURSION_GUARD = "FAIRSEQ_HPU_INSIDE_DEVELOP"
FIRST_SETUPTOOLS_WITH_EDITABLE = 71  # 64 to 70.0 build editable wheels too, but need `wheel`


def build_tools_are_here() -> bool:
    """Whether the environment's setuptools can build the editable wheel, so that pip need not download one."""
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= FIRST_SETUPTOOLS_WITH_EDITABLE
    except (metadata.PackageNotFoundError, ValueError):
        return False


def develop() -> int:
    """Run `setup.py develop`, which setuptools has dropped, as `pip install --editable`."""
    if os.environ.get(RECURSION_GUARD):
        raise SystemExit(
            "this pip is too old: it runs `setup.py develop` for editable installs. Upgrade it (pip>=21.3)."
        )
    command = [sys.executable, "-m", "pip", "install", "--editable", str(ROOT)]
    if build_tools_are_here():
        command.append("--no-build-isolation")
    return subprocess.call(command, env={**os.environ, RECURSION_GUARD: "1"})


def refuse_rivals() -> None:
    """Stop an editable install if a package folder in site-packages would take precedence over it."""
    # pip's isolated builds hide the environment from sys.path, not from sysconfig
    rivals = INSTALLED["rivals"]([sysconfig.get_path("purelib")])
    if rivals:
        raise SystemExit(INSTALLED["describe"](rivals))


def long_description() -> str:
    """README.md for PyPI, where relative links and pictures do not work: paths as text, and no pictures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    without_pictures = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    without_links = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)", r"\1 (`\2`)", without_pictures)
    return without_links + "\nPaths are those of the source distribution.\n"


if __name__ == "__main__" and sys.argv[1:2] == ["develop"]:
    sys.exit(develop())

from setuptools import __version__ as setuptools_version  # noqa: E402
from setuptools import find_namespace_packages, find_packages, setup  # noqa: E402
from setuptools.command.editable_wheel import editable_wheel  # noqa: E402


class EditableWheel(editable_wheel):
    """An editable install that first checks for other distributions of the same package."""

    def run(self) -> None:
        refuse_rivals()
        super().run()


# an SPDX expression from setuptools 77 on. In pyproject.toml, the versions before and after refuse each other's form
LICENSE_FIELD = "license_expression" if int(setuptools_version.split(".")[0]) >= 77 else "license"

# The rest of the metadata is in pyproject.toml; this is what it cannot express for every supported setuptools.
setup(
    **{LICENSE_FIELD: "MIT"},
    long_description=long_description(),
    long_description_content_type="text/markdown",
    # hydra_plugins itself too, although it is empty: hydra searches its folders, and would miss an editable install's
    packages=find_packages(include=["fairseq", "fairseq.*", "fairseq_cli", "fairseq_cli.*"])
    + find_namespace_packages(include=["hydra_plugins*"]),
    extras_require=INSTALLED["EXTRAS"],
    cmdclass={"editable_wheel": EditableWheel},
)
