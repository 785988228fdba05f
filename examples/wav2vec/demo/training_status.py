"""Show a training run as one short line per log interval; the full log goes to a file."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairseq.logging.metrics_file import read_rows

POLL_SECONDS = 0.5
QUIET_SECONDS = 8.0  # after this time without a line, print one to show that the run is alive
SHOWN_OF_FAILED = 20  # lines of the log
_IMPORTANT = re.compile(r"\| (WARNING|ERROR|CRITICAL) \||^Traceback|^\S*(Error|Exception)\b")
_SPEED = "audio_s_per_s"


def follow(command: list[str], save_dir: Path, log: Path) -> int:
    """Run a training command and print its progress; returns its exit status.

    Args:
        save_dir: the run's checkpoint.save_dir, where it writes metrics.jsonl.
        log: file to which the command's output is appended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    metrics = save_dir / "metrics.jsonl"
    seen = {_key(row) for row in _rows(metrics)}
    with log.open("a", encoding="utf-8") as output:
        begin = output.tell()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    lines = _new_lines(log, begin)
    last, running = time.monotonic(), True
    while running:
        try:
            running = process.poll() is None  # before reading, so that the last lines are read too
            if running:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            process.wait()  # it received Ctrl-C too, and saves a checkpoint
            raise
        said = [line for line in next(lines) if _IMPORTANT.search(line)]
        for row in _rows(metrics):
            if _key(row) not in seen:
                seen.add(_key(row))
                said += [text] if (text := describe(row)) else []
        if not said and time.monotonic() - last > QUIET_SECONDS:
            said = ["  ..."]
        for line in said:
            print(line, flush=True)
            last = time.monotonic()
    if process.returncode != 0:
        print(
            *log.read_text(encoding="utf-8", errors="replace")[begin:].splitlines()[-SHOWN_OF_FAILED:],
            sep="\n",
            flush=True,
        )
    return process.returncode


def describe(row: dict[str, Any]) -> str:
    """Format a row of metrics.jsonl; empty for an epoch's row, which repeats its intervals.

    Pre-training shows InfoNCE (`loss_0`, in bits) and its accuracy; fine-tuning shows the CTC loss and, in validation,
    error rates in %.
    """
    split, update = row["split"], row["num_updates"]
    if split == "train":
        return ""
    parts = [f"loss {float(row.get('loss_0', row['loss'])):6.3f}"]
    if "accuracy" in row:
        parts.append(f"accuracy {100 * float(row['accuracy']):5.2f} %")
    parts += [f"{name.upper()} {float(row[name]):5.1f} %" for name in ("wer", "uer") if name in row]
    if float(row.get(_SPEED, 0)) > 0:
        parts.append(f"{float(row[_SPEED]):5.0f} s of audio per s")
    where = "" if split == "train_inner" else "   (validation)"
    return f"  update {update:5d}   {'   '.join(parts)}{where}"


def _rows(metrics: Path) -> list[dict[str, Any]]:
    return read_rows(metrics) if metrics.is_file() else []


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["split"], row["num_updates"]


def _new_lines(path: Path, begin: int) -> Iterator[list[str]]:
    """Yield, at each `next`, the complete lines added since the last one."""
    rest = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        while True:
            *lines, rest = (rest + file.read()).split("\n")
            yield lines
