"""Learning curves of a small model on real speech, with and without the logit temperature schedule.

    python benchmarks/learning_curve.py CONFIG.yaml --data FOLDER --seeds 1 2 3

Trains one config with several seeds, unchanged and with the schedule (and its small mask embedding). FOLDER has
train.tsv and valid.tsv. The result is a file with all curves: InfoNCE in bits in training (means over a log interval)
and validation. A run has left the plateau at the first logged update with a training InfoNCE below 6.60 bits; chance is
log2(1 + negatives) = 6.658 for 100 negatives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import results_file

SCHEDULE = ["model.logit_temp_start=1.0", "model.logit_temp_updates=250"]
PLATEAU = 6.60


def train(config: Path, data: Path, seed: int, schedule: bool, work: Path, threads: int) -> dict[str, object]:
    """Train one run; returns its curves."""
    save_dir = work / f"seed{seed}{'_schedule' if schedule else ''}"
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.hydra_train",
        f"task.data={data}",
        "--config-dir",
        str(config.parent),
        "--config-name",
        config.stem,
        f"common.seed={seed}",
        f"checkpoint.save_dir={save_dir}",
        *(SCHEDULE if schedule else []),
    ]
    with (work / f"{save_dir.name}.log").open("w") as log:
        subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    rows = [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]
    training = [(row["num_updates"], row["loss_0"]) for row in rows if row["split"] == "train_inner"]
    validation = [(row["num_updates"], row["loss_0"]) for row in rows if row["split"] == "valid"]
    left = next((update for update, loss in training if loss < PLATEAU), None)
    arm = "with schedule" if schedule else "without schedule"
    print(f"seed {seed}, {arm}: left the plateau at {left}, final validation {validation[-1][1]}", flush=True)
    return {
        "seed": seed,
        "schedule": schedule,
        "left_plateau_at": left,
        "valid_end": validation[-1][1],
        "train": training,
        "valid": validation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("learning_curve"), help="folder for the runs")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads per run")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, schedule) for schedule in (True, False) for seed in args.seeds]
    with ThreadPoolExecutor(args.at_once) as pool:
        runs = list(
            pool.map(
                lambda job: train(args.config.resolve(), args.data.resolve(), *job, args.work.resolve(), args.threads),
                jobs,
            )
        )
    results_file.write("learning_curve", {"config": args.config.read_text(), "runs": runs})


if __name__ == "__main__":
    main()
