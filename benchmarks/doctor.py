#!/usr/bin/env python3
"""Time to examine the records of a run of 400,000 updates, by cause: what the doctor costs a run that trains.

    python benchmarks/doctor.py [--updates 400000] [--intervals 200 1] [--rounds 3]

The run is made up: every column of a pre-training row, with noise, without a fault, and a validation every 1,000
updates. Time is the processor's, in seconds, the lowest of the rounds. The first round reads columns for the first
time, as a command does; the later ones are what a live run pays.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import results_file

from fairseq.doctor import causes  # noqa: F401  registers them
from fairseq.doctor.findings import CAUSES
from fairseq.doctor.records import INTERVAL, Records, Row, Rows

LEVELS = {
    **{"loss": 2.5, "loss_0": 2.0, "loss_1": 0.05, "loss_2": 0.03, "accuracy": 0.6, "temp": 1.0, "lr": 0.0005},
    **{"prob_perplexity": 200.0, "code_perplexity": 180.0, "gnorm": 0.5, "clip": 2.0, "loss_scale": 64.0, "bsz": 90.0},
    **{"wps": 9000.0, "ups": 1.0, "wpb": 9000.0, "audio_s_per_s": 5000.0, "audio_s_per_update": 5000.0},
    **{"data_wait": 1.0, "train_wall": 90.0, "rank_wait": 2.0, "slowest_rank": 3.0, "wall": 1000.0, "host_cpu": 100.0},
    **{"padding": 5.0, "masked_share": 49.0, "host_gb": 20.0, "device_gb": 60.0, "graphs": 80.0, "cpu_fallbacks": 1.0},
    **{"time_forward": 30.0, "time_backward": 60.0, "time_exchange": 5.0, "time_optimizer": 4.0},
}


def made_up(updates: int, interval: int) -> Records:
    """Make the records of a run with a row every `interval` updates."""
    count, rng = updates // interval, np.random.default_rng(1)
    noise = np.exp(rng.normal(0, 0.02, (4096, len(LEVELS))))  # repeats: noise is not what is measured

    def row(number: int) -> Row:
        values = noise[number % 4096].tolist()
        update = interval * (number + 1)
        columns = {name: level * value for (name, level), value in zip(LEVELS.items(), values, strict=True)}
        return {"num_updates": update, "epoch": 1 + update // 2250, **columns}

    rows = Rows(row(i) for i in range(count))
    valid = Rows({"num_updates": 1000 * i, "epoch": 1, "loss": 2.6, "accuracy": 0.6} for i in range(1, updates // 1000))
    return Records({INTERVAL: rows, "valid": valid}, {"optimization": {"max_update": updates}})


def seconds_of(records: Records) -> dict[str, float]:
    spent: dict[str, float] = {}
    for name, function in CAUSES.items():
        began = time.process_time()
        function(records)
        spent[name] = time.process_time() - began
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--updates", type=int, default=400_000)
    parser.add_argument("--intervals", type=int, nargs="+", default=[200, 1], help="updates between rows")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    result = {}
    for interval in args.intervals:
        records = made_up(args.updates, interval)
        rounds = [seconds_of(records) for _ in range(args.rounds + 1)]
        again = {name: min(one[name] for one in rounds[1:]) for name in CAUSES}
        first, later = sum(rounds[0].values()), sum(again.values())
        print(f"a row every {interval} updates: {first:.3f} s at first, {later:.3f} s later")
        for name, spent in sorted(again.items(), key=lambda item: -item[1])[:8]:
            print(f"  {name:<28} {1000 * spent:8.1f} ms")
        result[f"every {interval}"] = {
            "first_s": round(first, 4),
            "later_s": round(later, 4),
            "by_cause_ms": {name: round(1000 * spent, 2) for name, spent in again.items()},
        }
    results_file.write("doctor", {"updates": args.updates, "processor_seconds": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
