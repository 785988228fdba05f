"""What the demo's steps have in common: a headline each, commands shown as the user could type them, and the time
taken.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from training_status import follow


class Steps:
    """The demo's steps, so many in all."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._begun: list[tuple[str, float]] = []

    def begin(self, name: str, text: str) -> None:
        """A new step; the one before it is over."""
        self._begun.append((name, time.perf_counter()))
        print(f"\n=== {len(self._begun)}/{self.total} {text}", flush=True)

    def summary(self) -> str:
        """The time that each step took until now, and all of them."""
        ends = [start for _, start in self._begun[1:]] + [time.perf_counter()]
        each = [(name, end - start) for (name, start), end in zip(self._begun, ends, strict=True)]
        parts = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in each if seconds >= 0.5)
        return f"Time: {parts or 'hardly any'}; together {in_words(sum(seconds for _, seconds in each))}"


def in_words(seconds: float) -> str:
    """1 min 5 s"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run(command: list[str], output: Path | None = None) -> None:
    """Runs a command, shown as the user could type it; its failure ends the demo.

    Args:
        output: file that gets what the command prints.
    """
    show(command, output)
    if output is None:
        code = subprocess.run(command).returncode
    else:
        with output.open("w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file).returncode
    stop_if_failed(code)


def show(command: list[str], output: Path | None = None) -> None:
    """Print a command as the user could type it."""
    print("\n$", shlex.join(command), *([">", str(output)] if output else []), flush=True)


def stop_if_failed(code: int) -> None:
    """Raise SystemExit for any status but 0."""
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SystemExit(f"the demo stopped: the command above {how}. Run `make demo` again to continue from there.")


def program(name: str, module: str) -> list[str]:
    """One of the package's commands, of this Python's environment, installed or not."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.is_file() else [sys.executable, "-m", module]


def train(config: Path, data: Path, save_dir: Path, seed: int, overrides: list[str]) -> None:
    """Train by a config, or continue the run in `save_dir`; the last of several overrides of one key counts.

    One short line is shown per log interval. The whole log is `train.log` in `save_dir`.
    """
    settings = [f"task.data={data}", f"checkpoint.save_dir={save_dir}", f"common.seed={seed}", *overrides]
    command = [*program("fairseq-hydra-train", "fairseq_cli.hydra_train"), *settings]
    command += ["--config-dir", str(config.parent), "--config-name", config.stem]
    show(command)
    print(f"  the whole log: {save_dir / 'train.log'}", flush=True)
    stop_if_failed(follow(command, save_dir, save_dir / "train.log"))
