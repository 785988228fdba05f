"""Which wheels the package index has for each version of Python; `tests.drills.wheels` calls it."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PACKAGE_ONLY = "(package)"
# source distributions of pure Python, without a wheel on PyPI: hydra 1.3 and omegaconf 2.3 need the first
SOURCES = ("antlr4-python3-runtime==4.9.3",)
ELSEWHERE = ("hpu",)  # in Gaudi's containers only


class Cell(NamedTuple):
    """What resolving one extra for one version of Python found."""

    extra: str
    version: str
    pinned: list[str]  # NAME==VERSION of everything that would be installed; empty: not to be had
    without: list[str]  # requirements of the extra that have no wheel, or else uv's own words
    own: list[str]  # the extra's own requirements as resolved


def build_sources(links: Path) -> None:
    """Build wheels of `SOURCES`, and make sure that they are of pure Python."""
    for requirement in SOURCES:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(links), requirement]
        subprocess.run(command, check=True, capture_output=True)
    impure = [path.name for path in links.iterdir() if not path.name.endswith("-none-any.whl")]
    assert not impure, impure


def resolve(requirements: Sequence[str], version: str, platform: str, links: Path) -> tuple[list[str], str]:
    """Resolve requirements to wheels for a version of Python.

    Returns:
        (NAME==VERSION of each package, "") or ([], uv's message).
    """
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("this drill needs uv: pip install uv")
    command = [uv, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    options = ["--python-version", version, "--python-platform", platform, "--find-links", str(links)]
    done = subprocess.run([*command, *options], input="\n".join(requirements), capture_output=True, text=True)
    if done.returncode != 0:
        return [], " ".join(done.stderr.split())
    return [line for line in done.stdout.splitlines() if "==" in line], ""


def _name(requirement: str) -> str:
    """The package's name: `ufal-kenlm` of `ufal-kenlm>=26.4; python_version < '3.13'`."""
    end = next((i for i, letter in enumerate(requirement) if letter in "[<>=!~; "), len(requirement))
    return requirement[:end].lower().replace("_", "-")


def resolve_all(root: Path, versions: Sequence[str], extras: Sequence[str] | None, platform: str) -> list[Cell]:
    """Resolve the package alone and with each extra, for each version."""
    base = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    known: dict[str, list[str]] = runpy.run_path(str(root / "fairseq" / "installed.py"))["EXTRAS"]
    chosen = {PACKAGE_ONLY: base} | {name: known[name] for name in (extras if extras is not None else sorted(known))}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder)
        build_sources(links)
        for extra, requirements in chosen.items():
            for version in versions:
                pinned, message = resolve([*base, *requirements], version, platform, links)
                alone = (
                    [] if pinned else [one for one in requirements if not resolve([one], version, platform, links)[0]]
                )
                own = {_name(requirement) for requirement in requirements}
                resolved = [pin for pin in pinned if _name(pin) in own]
                found.append(Cell(extra, version, pinned, [] if pinned else alone or [message], resolved))
                print(f"\r{extra} {version}    ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def print_table(cells: Sequence[Cell]) -> int:
    """Print a row for each extra with the number of packages, then what the extras' own requirements became."""
    versions = list(dict.fromkeys(cell.version for cell in cells))
    print(f"{'extra':<12}" + "".join(f"{version:<12}" for version in versions))
    for extra in dict.fromkeys(cell.extra for cell in cells):
        row = [cell for cell in cells if cell.extra == extra]
        print(f"{extra:<12}" + "".join(f"{len(c.pinned) or 'NONE':<12}" for c in row))
    print(f"\npackages, each with a wheel (or built here from pure Python: {', '.join(SOURCES)})\n")
    for extra in dict.fromkeys(cell.extra for cell in cells):
        seen: dict[tuple[str, ...], list[str]] = {}
        for cell in (cell for cell in cells if cell.extra == extra):
            words = tuple(cell.own) if cell.pinned else ("NO WHEEL:", *cell.without)
            seen.setdefault(words, []).append(cell.version)
        for words, where in seen.items():
            print(f"{extra} on {', '.join(where)}: {' '.join(words)}")
    return 1 if any(not cell.pinned and cell.extra not in ELSEWHERE for cell in cells) else 0
