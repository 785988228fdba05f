"""Setting up leaves the torch that Gaudi's containers bring alone. A distribution of that name and version stands
in for it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# torch as releases 1.19 and 1.23 carry it: a pre-release with a local part, in the eyes of pip
GAUDIS_TORCH = ("2.5.1a0+git6fc067b", "2.9.0a0+git1234567")


def add_distribution(site: Path, name: str, version: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("pip\n")
    (folder / "RECORD").write_text("")


def requirement_of_torch(repository: Path) -> str:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    return next(word for word in text.split('"') if word.startswith("torch>="))


@pytest.mark.parametrize("version", GAUDIS_TORCH)
def test_pip_finds_the_requirement_satisfied(repository: Path, tmp_path: Path, version: str) -> None:
    add_distribution(tmp_path, "torch", version)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--no-deps",
        requirement_of_torch(repository),
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "already satisfied" in done.stdout and version in done.stdout


def make(repository: Path, site: Path, target: str, venv: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", target, f"PYTHON={sys.executable}", f"VENV={venv}", *variables]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, cwd=repository
    )


def test_makes_torch_pin_refuses_where_gaudis_plugin_is(repository: Path, tmp_path: Path) -> None:
    site, venv = tmp_path / "site", tmp_path / "venv"
    add_distribution(site, "habana-torch-plugin", "1.23.0.695")
    done = make(repository, site, "venv", venv)
    assert done.returncode != 0 and not venv.exists()
    instead = re.search(rf"rm -rf {venv}; make (.*) venv", done.stdout)
    assert instead and "pip install --editable ." in done.stdout
    assert make(repository, site, "torch-is-free", venv, *instead.group(1).split()).returncode == 0
    shown = make(repository, site, "venv", venv, *instead.group(1).split(), "--dry-run").stdout
    assert f"-m venv --system-site-packages {venv}" in shown and 'install --quiet ""' in shown


def test_make_sets_up_where_it_is_not(repository: Path, tmp_path: Path) -> None:
    assert make(repository, tmp_path, "torch-is-free", tmp_path / "venv").returncode == 0
