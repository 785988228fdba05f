"""scripts/tell.py: a silent command is announced, reported on, and its exit status kept."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest


def test_says_what_runs_and_for_how_long(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tell = runpy.run_path(str(repository / "scripts/tell.py"))
    monkeypatch.setitem(tell["main"].__globals__, "EVERY", 0.1)
    assert tell["main"]("installing", [sys.executable, "-c", "import time; time.sleep(0.35); raise SystemExit(3)"]) == 3
    first, *others = capfd.readouterr().out.splitlines()
    assert first == "installing" and others and all(line.startswith("  ... ") for line in others)


@pytest.mark.process
def test_wants_a_command(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "scripts/tell.py"), "installing"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "TEXT COMMAND" in done.stderr
