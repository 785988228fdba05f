#!/usr/bin/env python3
"""What the doctor costs a run of the base model: processor seconds and memory, live and by cause.

    python benchmarks/doctor.py [--updates 400000] [--intervals 1 200] [--rounds 3] [--save]

For each log interval, a run is followed live: rows are made up (all columns of a healthy run, an update every 0.4 s of
a clock that this script moves), the work is real: rows are taken and all causes are looked for, as often as the doctor
allows itself. Then each cause examines the records of the whole run: the first round reads columns for the first time,
as fairseq-doctor does, and the later ones are what a look of a live run costs at its end. Time is the processor's, the
lowest of the rounds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import results_file
import torch
from omegaconf import OmegaConf

from fairseq import criterions, models, optim, tasks
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container
from fairseq.doctor.findings import CAUSES
from fairseq.doctor.live import LiveDoctor
from fairseq.doctor.records import INTERVAL, Records, Row, Rows
from fairseq.logging.metrics_file import Json

REGISTERED = (criterions, models, optim, tasks)
BASE = Path(__file__).resolve().parents[1] / "examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml"
SECONDS = 0.4  # of an update of the base model on 8 A100, 400,000 updates in 48 hours
EPOCH, VALIDATION = 2500, 25_000  # updates
STEADY = {
    **{"loss_1": 0.06, "loss_2": 0.02, "prob_perplexity": 150.0, "code_perplexity": 140.0, "gnorm": 0.8, "clip": 2.0},
    **{"loss_scale": 32.0, "bsz": 500.0, "wps": 400_000.0, "ups": 2.5, "wpb": 160_000.0, "audio_s_per_s": 14_000.0},
    **{"audio_s_per_update": 5600.0, "data_wait": 1.0, "train_wall": SECONDS, "rank_wait": 2.0, "slowest_rank": 3.0},
    **{"host_cpu": 100.0, "padding": 3.0, "masked_share": 49.0, "host_gb": 20.0, "device_gb": 60.0, "graphs": 80.0},
    **{"cpu_fallbacks": 1.0, "time_forward": 30.0, "time_backward": 60.0, "time_exchange": 5.0, "time_optimizer": 4.0},
}
EXACT = {"loss_scale", "slowest_rank", "graphs", "cpu_fallbacks"}  # no noise
_NOISE = np.exp(np.random.default_rng(1).normal(0, 0.02, (4096, len(STEADY) + 2)))  # repeats: it is not measured
_SCALES = {name: _NOISE[:, place].tolist() for place, name in enumerate((*STEADY, "loss", "accuracy"))}


def row(update: int, total: int) -> dict[str, float]:
    """A healthy run's values at an update."""
    progress, place = update / total, update % 4096
    info_nce = (2.2 + 4 * (1 - progress) ** 2) * _SCALES["loss"][place]
    accuracy = 0.491 * (update / 50_000) ** 0.119  # NVIDIA's published means of base, within 0.006
    return {
        **{name: level if name in EXACT else level * _SCALES[name][place] for name, level in STEADY.items()},
        "loss": info_nce + 0.3,
        "loss_0": info_nce,
        "accuracy": accuracy * _SCALES["accuracy"][place],
        "temp": max(0.5, 2 * 0.999995**update),
        "lr": 0.0005 * (1 - progress),
        "wall": update * SECONDS,
    }


def rows_of(updates: int, interval: int) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield split, update and values of a run's rows, in order."""
    for update in range(interval, updates + 1, interval):
        values = row(update, updates)
        yield INTERVAL, update, values
        if update % VALIDATION < interval:
            yield "valid", update, values


def live(config: dict[str, Json], updates: int, interval: int) -> dict[str, Json]:
    """Follow a run as its doctor does."""
    now, writes, longest = [0.0], 0.0, 0.0
    said: list[Json] = []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        doctor = LiveDoctor(
            config,
            Path(folder),
            say=lambda update, finding: said.append(f"{update}: {finding['name']}"),
            clock=lambda: now[0],
        )
        for split, update, values in rows_of(updates, interval):
            now[0] = update * SECONDS
            begin, before = time.process_time(), doctor.spent
            doctor.write(split, update, 1 + update // EPOCH, values)
            writes += time.process_time() - begin
            longest = max(longest, doctor.spent - before)
        begin = time.process_time()
        doctor.look()
        last = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    return {
        "cpu_seconds": round(writes, 2),
        "of_them_looking": round(doctor.spent, 2),
        "share_of_the_run_percent": round(100 * writes / (updates * SECONDS), 4),
        "one_look_at_the_end_seconds": round(last, 4),
        "longest_look_seconds": round(longest, 4),
        "memory_mb": round(grown, 1),
        "findings": said,
    }


def by_cause(config: dict[str, Json], updates: int, interval: int, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Examine the records of the whole run; returns the seconds of each round, and the milliseconds of each cause."""
    rows: dict[str, list[Row]] = {INTERVAL: [], "valid": []}
    for split, update, values in rows_of(updates, interval):
        rows[split].append({**values, "num_updates": update, "epoch": 1 + update // EPOCH})
    records = Records({split: Rows(those) for split, those in rows.items()}, config)
    spent = [_seconds_of(records) for _ in range(rounds + 1)]
    again = {name: round(1000 * min(one[name] for one in spent[1:]), 2) for name in CAUSES}
    return [round(sum(one.values()), 4) for one in spent], dict(sorted(again.items(), key=lambda item: -item[1]))


def _seconds_of(records: Records) -> dict[str, float]:
    spent: dict[str, float] = {}
    for name, function in CAUSES.items():
        began = time.process_time()
        function(records)
        spent[name] = time.process_time() - began
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400_000)
    parser.add_argument("--intervals", type=int, nargs="+", default=[200, 1], help="updates between rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/doctor.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = config_to_container(resolve_config(OmegaConf.load(BASE)))  # type: ignore[arg-type]
    result: dict[str, Json] = {}
    for interval in args.intervals:
        followed = live(config, args.updates, interval)
        seconds, milliseconds = by_cause(config, args.updates, interval, args.rounds)
        print(f"a row every {interval} updates:")
        for key, value in followed.items():
            print(f"  {key}: {value}")
        print(f"  a look at the whole run: {seconds[0]} s at first, {min(seconds[1:])} s later")
        print("  the slowest:", ", ".join(f"{name} {spent} ms" for name, spent in list(milliseconds.items())[:6]))
        whole: dict[str, Json] = {"first_seconds": seconds[0], "later_seconds": min(seconds[1:])}
        result[f"every {interval}"] = {**followed, **whole, "milliseconds": {**milliseconds}}
    if args.save:
        results_file.write("doctor", {"updates": args.updates, "causes": len(CAUSES), "processor": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
