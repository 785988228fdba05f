"""What the live doctor costs a run: processor seconds and memory, over the rows of a run of the base model.

Rows are made up (a base run's columns, log_interval 1, an update every 0.4 s of a clock that this script moves), the
work is real: rows are taken and all causes are looked for, as often as the doctor allows itself.

    python -m benchmarks.doctor_cost --updates 400000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks import results_file
from fairseq import criterions, models, optim, tasks
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container
from fairseq.doctor.findings import CAUSES
from fairseq.doctor.live import LiveDoctor

REGISTERED = (criterions, models, optim, tasks)
BASE = Path(__file__).resolve().parents[1] / "examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml"
SECONDS = 0.4  # of an update of the base model on 8 A100, 400,000 updates in 48 hours
EPOCH, VALIDATION = 2500, 25_000  # updates


def row(update: int, total: int, noise: np.ndarray) -> dict[str, float]:
    """A healthy run's values at an update."""
    progress = update / total
    accuracy = 0.63 * (1 - 0.75 ** (1 + 12 * progress))
    return {
        "loss": 2.5 + 4 * (1 - progress) ** 2 + 0.05 * noise[0],
        "loss_0": 2.2 + 4 * (1 - progress) ** 2 + 0.05 * noise[0],
        "loss_1": 0.06,
        "loss_2": 0.02 + 0.001 * noise[1],
        "accuracy": accuracy + 0.01 * noise[2],
        "prob_perplexity": 150 + 5 * noise[3],
        "code_perplexity": 140 + 5 * noise[4],
        "temp": max(0.5, 2 * 0.999995**update),
        "gnorm": 0.8 + 0.1 * abs(noise[5]),
        "loss_scale": 32.0,
        "lr": 0.0005 * (1 - progress),
        "wps": 400_000 + 4_000 * noise[6],
        "ups": 2.5,
        "wpb": 160_000.0,
        "bsz": 500.0,
        "audio_s_per_s": 14_000.0,
        "audio_s_per_update": 5600.0,
        "data_wait": 1.0 + 0.1 * noise[7],
        "train_wall": SECONDS,
        "host_gb": 20.0,
        "padding": 3.0,
        "masked_share": 49.0,
        "wall": update * SECONDS,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400_000)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/doctor_cost.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = config_to_container(resolve_config(OmegaConf.load(BASE)))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    now = [0.0]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    making, writes, longest, said = 0.0, 0.0, 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        doctor = LiveDoctor(
            config,
            Path(folder),
            say=lambda update, finding: said.append(f"{update}: {finding['name']}"),
            clock=lambda: now[0],
        )
        for update in range(1, args.updates + 1):
            start = time.process_time()
            values = row(update, args.updates, rng.standard_normal(8))
            begin = time.process_time()
            now[0] += SECONDS
            before = doctor.spent
            doctor.write("train_inner", update, 1 + update // EPOCH, values)
            if update % VALIDATION == 0:
                doctor.write("valid", update, 1 + update // EPOCH, values)
            end = time.process_time()
            making += begin - start
            writes += end - begin
            longest = max(longest, doctor.spent - before)
        begin = time.process_time()
        doctor.look()
        last = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    share = 100 * writes / (args.updates * SECONDS)
    result = {
        "updates": args.updates,
        "seconds_per_update": SECONDS,
        "causes": len(CAUSES),
        "cpu_seconds": round(writes, 2),
        "of_them_looking": round(doctor.spent, 2),
        "share_of_the_run_percent": round(share, 4),
        "one_look_at_the_end_seconds": round(last, 4),
        "longest_write_seconds": round(longest, 4),
        "memory_mb": round(grown, 1),
        "findings": said,
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    print(f"(making the rows took {making:.1f} of {time.process_time() - begun:.1f} s)")
    if args.save:
        results_file.write("doctor_cost", result)


if __name__ == "__main__":
    main()
