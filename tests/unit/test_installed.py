"""Other distributions of the name `fairseq` are noticed, cheaply."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fairseq import installed


def add_distribution(site: Path, folder: str, files: dict[str, str]) -> None:
    (site / folder).mkdir()
    for name, text in files.items():
        (site / folder / name).write_text(text)


def test_advice_names_packages_that_pip_finds() -> None:
    assert (
        installed.advice("decode")
        == "pip install 'ufal-kenlm>=26.4' \"flashlight-text>=0.0.7; python_version < '3.13'\""
    )
    assert installed.advice("slurm") == "pip install 'submitit>=1.5'"


def test_no_message_advises_an_extra_of_a_package_that_is_not_on_pypi() -> None:
    root = Path(installed.__file__).resolve().parents[1]
    places = [*(root / "README.md", root / "Makefile"), *(root / "docs").glob("*.md")]
    places += [
        path
        for folder in ("fairseq", "fairseq_cli", "hydra_plugins", "examples")
        for path in (root / folder).rglob("*.py")
    ]
    places.remove(Path(installed.__file__).resolve())
    assert [str(path) for path in places if "install 'fairseq-hpu[" in path.read_text(encoding="utf-8")] == []


def test_no_rival(tmp_path: Path) -> None:
    add_distribution(tmp_path, "fairseq_hpu-0.1.0.dist-info", {"RECORD": "fairseq/__init__.py,,\n"})
    add_distribution(
        tmp_path, "fairseq2-0.4.dist-info", {"RECORD": "fairseq2/__init__.py,,\n", "top_level.txt": "fairseq2\n"}
    )
    add_distribution(tmp_path, "torch-2.5.dist-info", {"top_level.txt": "fairseq\n"})  # a name that is not looked at
    assert installed.rivals([str(tmp_path), str(tmp_path / "absent")]) == []


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        ("fairseq-0.12.2.dist-info", {"top_level.txt": "examples\nfairseq\nfairseq_cli\n"}, ("fairseq", "0.12.2")),
        (
            "fairseq_fixed-0.12.3.1.dist-info",
            {"RECORD": "fairseq/__init__.py,sha256=x,1\n"},
            ("fairseq-fixed", "0.12.3.1"),
        ),
        ("fairseq-1.0.0a0-py3.10-linux-x86_64.egg-info", {"top_level.txt": "fairseq\n"}, ("fairseq", "1.0.0a0")),
        ("fairseq.egg-info", {"top_level.txt": "fairseq\n"}, ("fairseq", "(development install)")),
    ],
)
def test_rival_is_named(tmp_path: Path, folder: str, files: dict[str, str], expected: tuple[str, str]) -> None:
    add_distribution(tmp_path, folder, files)
    found = installed.rivals([str(tmp_path)])
    assert found == [expected]
    message = installed.describe(found)
    assert f"{expected[0]} {expected[1]}" in message and f"pip uninstall {expected[0]}" in message


def test_the_warning_at_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(tmp_path, "fairseq-0.12.2.dist-info", {"top_level.txt": "fairseq\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"fairseq 0\.12\.2"):
        installed.warn_of_rivals()


def test_the_check_is_cheap() -> None:
    """Under 5 ms of processor time: it runs at every import."""

    def seconds() -> float:
        start = time.process_time()
        installed.rivals()
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.005
