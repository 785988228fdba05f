#!/usr/bin/env python3
"""What a run's records cost: a base-size update of this tree compared with one of an earlier commit.

    python benchmarks/records_overhead.py [--before COMMIT] [--rounds 4] [--updates 12] [--log-interval 4] [--threads 2]

Both trees train the base model on the same noise through the whole loop: data loading, update, log interval, records.
They alternate, each in a fresh process, and the first `WARM_UP` updates of each are left out. The log interval is far
shorter than the usual 200 updates, so what happens there weighs 50 times as much as in a real run.

The default of `--before` is the last commit whose rows had no shares of time and whose runs counted no codewords.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BEFORE = "3998c12"
RATE, FILES, SECONDS, ROWS = 16000, 32, 10, 4
WARM_UP = 2
LIMIT = 1.0  # percent

CONFIG = """
common: {log_format: none, seed: 1, cpu: true}
task: {_name: audio_pretraining, max_sample_size: 160000, min_sample_size: 160000, normalize: true}
dataset: {num_workers: 1, required_batch_size_multiple: 1, disable_validation: true}
checkpoint: {no_save: true}
criterion: {_name: wav2vec, infonce: true, log_keys: [prob_perplexity, code_perplexity, temp], loss_weights: [0.1, 10]}
optimization: {lr: [0.0005], clip_norm: 10.0}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-06, weight_decay: 0.01}
lr_scheduler: {_name: polynomial_decay, warmup_updates: 32000}
model: {_name: wav2vec2, quantize_targets: true, final_dim: 256, encoder_layerdrop: 0.0, dropout_input: 0.1,
  dropout_features: 0.1, feature_grad_mult: 0.1}
"""


def write_corpus(folder: Path) -> None:
    import numpy as np
    import soundfile

    rng = np.random.default_rng(1)
    lines = [str(folder)]
    for number in range(FILES):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(RATE * SECONDS), RATE)
        lines.append(f"{number}.wav\t{RATE * SECONDS}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")


def train(data: str, updates: int, log_interval: int, threads: int) -> dict[str, Any]:
    """Train with the `fairseq` that this process finds; return wall and CPU seconds of each update.

    An update's seconds include its log step.
    """
    from omegaconf import OmegaConf

    from fairseq.dataclass.initialize import resolve_config
    from fairseq.device.base import Device
    from fairseq.training import loop

    cfg = OmegaConf.create(CONFIG)
    cfg.task.data, cfg.checkpoint.save_dir = data, str(Path(data) / f"run{os.getpid()}")
    cfg.dataset.max_tokens = RATE * SECONDS * ROWS
    cfg.common.log_interval, cfg.common.threads_per_process = log_interval, threads
    cfg.common.bf16 = Device().bf16_is_fast()
    cfg.optimization.max_update = WARM_UP + updates
    marks: list[tuple[float, float]] = []
    update = loop.Run._update

    def timed(run: loop.Run, samples: Any) -> None:
        update(run, samples)
        used = resource.getrusage(resource.RUSAGE_SELF)
        marks.append((time.perf_counter(), used.ru_utime + used.ru_stime))

    loop.Run._update = timed  # type: ignore[method-assign]
    loop.prepare(resolve_config(cfg)).train()
    pairs = list(zip(marks, marks[1:], strict=False))[WARM_UP - 1 :]
    return {name: [later[i] - earlier[i] for earlier, later in pairs] for i, name in enumerate(("wall", "cpu"))}


def measure(tree: Path, data: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(data)]
    command += ["--updates", str(arguments.updates), "--log-interval", str(arguments.log_interval)]
    command += ["--threads", str(arguments.threads)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, cwd=data, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def unpack(commit: str, folder: Path) -> None:
    """Write the package of a commit to a folder."""
    folder.mkdir()
    archive = folder / "tree.tar"
    command = ["git", "-C", str(REPOSITORY), "archive", "--output", str(archive), commit, "fairseq", "fairseq_cli"]
    subprocess.run(command, check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        data, before = Path(temporary) / "data", Path(temporary) / "before"
        data.mkdir()
        write_corpus(data)
        unpack(arguments.before, before)
        found: dict[str, list[dict[str, list[float]]]] = {"before": [], "now": []}
        for number in range(arguments.rounds):
            trees = [("before", before), ("now", REPOSITORY)]
            for name, tree in trees if number % 2 == 0 else trees[::-1]:
                found[name].append(measure(tree, data, arguments))
                median = statistics.median(found[name][-1]["wall"])
                print(f"round {number + 1}, {name}: {median:.3f} s per update", file=sys.stderr)
    result: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        # the mean over a round's updates has the log steps; the median over rounds drops disturbed ones
        seconds = {name: [statistics.mean(each[clock]) for each in rounds] for name, rounds in found.items()}
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        percent = 100 * (medians["now"] / medians["before"] - 1)
        result[clock] = {"seconds_per_update": seconds, "median": medians, "overhead_percent": round(percent, 3)}
        print(
            f"{clock}: {medians['before']:.4f} s per update before, {medians['now']:.4f} s now: {percent:+.2f} % "
            f"(limit {LIMIT:g} %)"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--log-interval", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", metavar="DATA", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(train(arguments.child, arguments.updates, arguments.log_interval, arguments.threads)))
        return
    from results_file import write

    result = compare(arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "child"}
    print(write("records_overhead", {"settings": settings, **result}))


if __name__ == "__main__":
    main()
