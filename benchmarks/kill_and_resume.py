"""Compare a run that is killed twice with an uninterrupted run: are the checkpoints bit-equal?

    python benchmarks/kill_and_resume.py --kill-at 8 16 -- task.data=DATA \\
        --config-dir examples/wav2vec/config/pretraining --config-name wav2vec2_base_librispeech \\
        distributed_training.distributed_world_size=1 dataset.max_tokens=250000 \\
        optimization.max_update=20 checkpoint.save_interval_updates=4

Both are runs of `fairseq-hydra-train`. A kill is a SIGKILL of the command and its workers after the checkpoint of that
update; the same command is then run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch


def start(save_dir: Path, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", *arguments, f"checkpoint.save_dir={save_dir}"]
    log = (save_dir.parent / f"{save_dir.name}.log").open("a")
    return subprocess.Popen(command, text=True, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def kill_after(process: subprocess.Popen[str], save_dir: Path, update: int, delay: float) -> None:
    """Send SIGKILL `delay` seconds after a checkpoint of `update` or later exists."""
    while not any(
        int(m[1]) >= update for p in save_dir.glob("checkpoint_*_*.pt") if (m := re.search(r"_(\d+)\.pt$", p.name))
    ):
        if process.poll() is not None:
            raise SystemExit(
                f"The run ended with status {process.returncode} before update {update}. See {save_dir}.log."
            )
        time.sleep(0.02)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tensors that are not bit-equal in two checkpoints."""
    first, second = (torch.load(path, map_location="cpu", weights_only=True) for path in (one, other))
    found = [name for name, value in first["model"].items() if not torch.equal(value, second["model"][name])]
    states = [checkpoint["last_optimizer_state"]["state"] for checkpoint in (first, second)]
    for index in states[0]:
        for key, value in states[0][index].items():
            if not torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][key])):
                found.append(f"optimizer {index} {key}")
    if first["extra_state"]["train_iterator"] != second["extra_state"]["train_iterator"]:
        found.append("train_iterator")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kill-at", type=int, nargs="+", default=[8, 16], help="kill after the checkpoint of each of these updates"
    )
    parser.add_argument("--delay", type=float, default=0.5, help="seconds between the checkpoint and the kill")
    parser.add_argument("--work", type=Path, default=Path("kill_and_resume"), help="folder for both runs")
    parser.add_argument("arguments", nargs="+", help="arguments of fairseq-hydra-train, after --")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    unbroken, killed = args.work.resolve() / "unbroken", args.work.resolve() / "killed"
    if start(unbroken, args.arguments).wait() != 0:
        raise SystemExit(f"The uninterrupted run failed. See {unbroken}.log.")
    for update in args.kill_at:
        kill_after(start(killed, args.arguments), killed, update, args.delay)
    if start(killed, args.arguments).wait() != 0:
        raise SystemExit(f"The killed run did not resume. See {killed}.log.")
    log = (args.work / "killed.log").read_text()
    continued = re.findall(r"loaded checkpoint .*?, (\d+) updates", log)
    last = torch.load(unbroken / "checkpoint_last.pt", map_location="cpu", weights_only=True)
    unequal = differences(unbroken / "checkpoint_last.pt", killed / "checkpoint_last.pt")
    print(
        json.dumps(
            {
                "killed_after_checkpoints_of": args.kill_at,
                "continued_at_updates": [int(update) for update in continued],
                "ended_at_update": last["optimizer_history"][-1]["num_updates"],
                "epoch": last["extra_state"]["train_iterator"]["epoch"],
                "tensors_compared": len(last["model"])
                + sum(len(entry) for entry in last["last_optimizer_state"]["state"].values()),
                "unequal": unequal,
            },
            indent=1,
        )
    )
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
