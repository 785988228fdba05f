#!/usr/bin/env python3
"""How long a save keeps training waiting: synchronous and with checkpoint.async_save.

    python benchmarks/save_blocking.py [--repeats 5] [--limit 0.1] [--folder FOLDER]

Saves the state of the base model with Adam's averages (1.1 GB), as a run does, into FOLDER. The two ways alternate.
Between a save and the optimizer's step there are two seconds of matrix products, less than a forward and backward pass
of this model; an asynchronous save copies the weights during them. The median time for which the training thread waits,
in the save and before the step, is compared. Exits with status 1 if the share is above the limit.

Listed, but not compared: the first asynchronous save, which allocates the memory on the host; the training thread's
processor time in the save; and by how much the products took longer while the save was copying and writing.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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

SECONDS = 2.0
_FACTOR = torch.rand(1500, 1500)


class Trainer:
    """The base model's weights and Adam's averages of them, which change between two saves."""

    is_data_parallel_master = True
    before_step: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.run_record, self.device = cfg, RunRecord(), device.get("cpu")
        self.strategy = DataParallel(cfg.distributed_training, self.device)
        self.weights = dict(Wav2Vec2Model({"_name": "wav2vec2", "quantize_targets": True}).state_dict())
        self.averages = {
            number: {name: torch.rand_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            for number, weight in enumerate(self.weights.values())
        }
        self.updates = 0

    def step(self) -> None:
        self.updates += 1
        for weight in self.weights.values():
            weight += 1

    def only_steps_change(self) -> Iterator[torch.Tensor]:
        yield from self.weights.values()
        for averages in self.averages.values():
            yield from averages.values()

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


def products() -> float:
    """Compute as forward and backward passes do, for `SECONDS` when nothing else runs; returns the seconds it took."""
    start = time.perf_counter()
    for _ in range(_number_of_products()):
        torch.mm(_FACTOR, _FACTOR)
    return time.perf_counter() - start


@functools.cache
def _number_of_products() -> int:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        torch.mm(_FACTOR, _FACTOR)
        count += 1
    return count


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
    slowed: list[float] = []
    written: list[float] = []
    try:
        savers = {}
        for name in blocked:
            checkpoint = cfg.checkpoint.copy()
            checkpoint.async_save = name == "asynchronous"
            savers[name] = Saver(checkpoint, trainer)
        for _ in range(args.repeats + 1):
            for name, saver in savers.items():
                alone = products()
                start, computing = time.perf_counter(), time.thread_time()
                saver.begin(place, None)
                saving = time.perf_counter() - start
                computed[name].append(round(time.thread_time() - computing, 3))
                beside = products()
                start = time.perf_counter()
                trainer.before_step()
                blocked[name].append(round(saving + time.perf_counter() - start, 3))
                trainer.step()
                slowed += [] if name == "synchronous" else [round(beside - alone, 3)]
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
        "seconds_more_for_the_products_beside_it": slowed[1:],
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
