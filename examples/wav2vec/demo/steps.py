"""Utilities of the demo's steps: headings, commands printed as you would type them, and timing."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from training_status import follow


class Steps:
    """Headings and times of the demo's `total` steps."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._begun: list[tuple[str, float]] = []

    def begin(self, name: str, text: str) -> None:
        """Start a step, which ends the previous one."""
        self._begun.append((name, time.perf_counter()))
        print(f"\n=== {len(self._begun)}/{self.total} {text}", flush=True)

    def summary(self) -> str:
        """Return the time of each step so far, and the total."""
        ends = [start for _, start in self._begun[1:]] + [time.perf_counter()]
        each = [(name, end - start) for (name, start), end in zip(self._begun, ends, strict=True)]
        parts = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in each if seconds >= 0.5)
        return f"Time: {parts or 'under 1 s per step'}; total {in_words(sum(seconds for _, seconds in each))}"


def in_words(seconds: float) -> str:
    """Format a duration, such as 1 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run(command: list[str], output: Path | None = None) -> None:
    """Print and run a command; a failure ends the demo.

    Args:
        output: file for the command's standard output.
    """
    show(command, output)
    if output is None:
        code = subprocess.run(command).returncode
    else:
        with output.open("w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file).returncode
    stop_if_failed(code)


def show(command: list[str], output: Path | None = None) -> None:
    """Print a command as you would type it."""
    print("\n$", shlex.join(command), *([">", str(output)] if output else []), flush=True)


def stop_if_failed(code: int) -> None:
    """Raise SystemExit if the exit status is not 0."""
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise SystemExit(f"the demo stopped: the command above {how}. Run `make demo` again to continue.")


def program(name: str, module: str) -> list[str]:
    """Return the command line of one of the package's commands in this environment, installed or not."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.is_file() else [sys.executable, "-m", module]


def train(config: Path, data: Path, save_dir: Path, seed: int, overrides: list[str]) -> None:
    """Train with a config, or resume the run in `save_dir`; the last override of a key wins.

    One line is printed per log interval. The full log is `save_dir`/train.log.
    """
    settings = [f"task.data={data}", f"checkpoint.save_dir={save_dir}", f"common.seed={seed}", *overrides]
    command = [*program("fairseq-hydra-train", "fairseq_cli.hydra_train"), *settings]
    command += ["--config-dir", str(config.parent), "--config-name", config.stem]
    show(command)
    print(f"  full log: {save_dir / 'train.log'}", flush=True)
    stop_if_failed(follow(command, save_dir, save_dir / "train.log"))
