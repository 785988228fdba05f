#!/usr/bin/env python3
"""How long a save keeps training waiting: synchronous and with checkpoint.async_save.

    python benchmarks/save_blocking.py [--repeats 5] [--limit 0.1] [--folder FOLDER]

Saves the state of the base model with Adam's averages (1.1 GB), as a run does, into FOLDER. The two ways alternate;
the median time until the training thread continues is compared. The first asynchronous save, which allocates the memory
on the host, is listed, but not counted. The training thread's processor time is listed, too: it does not depend on what
else the machine does, but leaves out the wait for the disk. Exits with status 1 if the share is above the limit.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import results_file
import torch

from fairseq import device
from fairseq.checkpoint.record import RunRecord
from fairseq.checkpoint.saver import Saver
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed.strategy import DataParallel
from fairseq.models.wav2vec import Wav2Vec2Model


class Trainer:
    """The base model's weights and Adam's averages of them, which change between two saves."""

    is_data_parallel_master = True

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.run_record, self.device = cfg, RunRecord(), device.get("cpu")
        self.strategy = DataParallel(cfg.distributed_training, self.device)
        self.weights = dict(Wav2Vec2Model({"_name": "wav2vec2", "quantize_targets": True}).state_dict())
        self.averages = {
            number: {name: torch.rand_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            for number, weight in enumerate(self.weights.values())
        }
        self.updates = 0

    def train(self) -> None:
        self.updates += 1
        for weight in self.weights.values():
            weight += 1

    def get_num_updates(self) -> int:
        return self.updates

    def state_dict(self) -> dict[str, Any]:
        history = [{"num_updates": self.updates}]
        optimizer = {"state": self.averages, "param_groups": []}
        return {
            "model": self.weights,
            "optimizer_history": history,
            "last_optimizer_state": optimizer,
            "extra_state": {},
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="saves of each kind (default: 5)")
    parser.add_argument("--limit", type=float, default=0.1, help="largest share of the synchronous time (default: 0.1)")
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    args = parser.parse_args()
    place = SimpleNamespace(epoch=1, end_of_epoch=lambda: False, state_dict=dict)
    folder = Path(tempfile.mkdtemp(prefix="save_blocking.", dir=args.folder))
    cfg = resolve_config({"common": {"cpu": True}, "checkpoint": {"save_dir": str(folder)}})
    trainer: Any = Trainer(cfg)
    blocked: dict[str, list[float]] = {"synchronous": [], "asynchronous": []}
    computed: dict[str, list[float]] = {name: [] for name in blocked}
    written: list[float] = []
    try:
        savers = {}
        for name in blocked:
            checkpoint = cfg.checkpoint.copy()
            checkpoint.async_save = name == "asynchronous"
            savers[name] = Saver(checkpoint, trainer)
        for _ in range(args.repeats + 1):
            for name, saver in savers.items():
                trainer.train()
                start, computing = time.perf_counter(), time.thread_time()
                saver.begin(place, None)
                blocked[name].append(round(time.perf_counter() - start, 3))
                computed[name].append(round(time.thread_time() - computing, 3))
                result = saver.finish()
                written += [] if name == "synchronous" else [round(result.seconds, 3)]
        size = (folder / "checkpoint_last.pt").stat().st_size
    finally:
        shutil.rmtree(folder)
    first = blocked["asynchronous"][0]
    medians = {name: statistics.median(times[1:]) for name, times in blocked.items()}
    share = round(medians["asynchronous"] / medians["synchronous"], 4)
    result = {
        "share": share,
        "limit": args.limit,
        "checkpoint_bytes": size,
        "threads": torch.get_num_threads(),
        "seconds_until_training_continues": {name: times[1:] for name, times in blocked.items()},
        "processor_seconds_of_the_training_thread": {name: times[1:] for name, times in computed.items()},
        "seconds_of_the_first_asynchronous_save": first,
        "seconds_until_the_file_is_complete": written[1:],
    }
    path = results_file.write("save_blocking", result)
    print(
        f"{results_file.processor_name()}: a save of {size / 2**20:,.0f} MiB keeps training waiting for "
        f"{medians['synchronous']:.2f} s, with checkpoint.async_save for {medians['asynchronous']:.2f} s "
        f"({100 * share:.1f} %, limit {100 * args.limit:.0f} %; the first time {first:.2f} s); results: {path}"
    )
    medians = {name: statistics.median(times[1:]) for name, times in computed.items()}
    print(f"processor time of the training thread: {medians['synchronous']:.2f} s and {medians['asynchronous']:.2f} s")
    return 1 if share > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
