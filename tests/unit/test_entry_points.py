"""No command lets torch load a device's plug-in by itself: what the plug-in reads from the environment is not set
yet.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = dict(
    re.findall(
        r'^(fairseq-[\w-]+) = "(fairseq_cli[\w.]*:\w+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M
    )
)
# says what TORCH_DEVICE_BACKEND_AUTOLOAD is when something first looks for torch
SPY = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("autoload", os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD"), flush=True)
            raise SystemExit  # that is all there is to know
sys.meta_path.insert(0, Spy())
"""


def first_look(load: str, **environment: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    done = subprocess.run(
        [sys.executable, "-c", SPY + load],
        env={**env, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("autoload")]


def test_the_training_command_is_among_them() -> None:
    assert "fairseq-hydra-train" in SCRIPTS


@pytest.mark.process
@pytest.mark.parametrize("name", SCRIPTS)
def test_console_scripts(name: str) -> None:
    module, function = SCRIPTS[name].split(":")
    # some import torch only when they run
    assert first_look(f"from {module} import {function}; import torch") == ["autoload 0"]


@pytest.mark.process
def test_started_as_a_module() -> None:
    load = 'import runpy; sys.argv = ["x", "--help"]\nrunpy.run_module("fairseq_cli.validate", run_name="__main__")'
    assert first_look(load) == ["autoload 0"]


@pytest.mark.process
def test_what_the_user_set_stays() -> None:
    assert first_look("import fairseq_cli.hydra_train", TORCH_DEVICE_BACKEND_AUTOLOAD="1") == ["autoload 1"]
