"""Classify real digits: fine-tuning against a linear probe on frozen features of the same checkpoint.

    python -m tests.drills.classify_digits CHECKPOINT [--seeds 1 2 3] [--updates 700] [--json FILE]

Words: ten digits, of two speakers who are not in the training data. Speakers: five, with other recordings of the same
speakers. The last update's checkpoint counts, so nothing is chosen on the test data; the probe has the layer that is
best on held-out training data, and its weight decay is chosen there too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.data.audio.manifest import Manifest
from fairseq.data.classes import LabelSource
from fairseq.evaluation.probe.layers import extract_layers
from fairseq.inference.model import SpeechModel
from fairseq.inference.windows import WindowSettings

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = REPOSITORY.parent / "shared" / "data" / "digits"
HELD_OUT = ("lucas", "theo")  # speakers of the words' test set
PATTERNS = {"words": r"/([0-9])_", "speakers": r"_([a-z]+)_"}
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


class Result(NamedTuple):
    """Accuracy on the test set, from 0 to 1."""

    task: str
    layer: str  # of the probe
    probe: float
    tuned: dict[int, float]  # by seed
    seconds: float  # of processor time, all fine-tuning runs


def write_manifests(folder: Path, kind: str, step: int) -> None:
    """Write train.tsv and valid.tsv with every `step`th recording."""
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    for path in sorted((DIGITS / "wav").glob("*.wav")):
        _, speaker, number = path.stem.split("_")
        tests = speaker in HELD_OUT if kind == "words" else int(number) < 10
        if int(number) % step == 0:
            lines["valid" if tests else "train"].append(f"wav/{path.name}\t{soundfile.info(path).frames}")
    folder.mkdir(parents=True)
    for name, part in lines.items():
        (folder / f"{name}.tsv").write_text("\n".join([str(DIGITS), *part]) + "\n")


# -- the probe ---------------------------------------------------------------------------------------------------------


def probe(checkpoint: str, data: Path, pattern: str) -> tuple[str, float]:
    """Train a linear classifier on the mean of each utterance's frozen frames; return its layer and test accuracy."""
    model = SpeechModel.load(checkpoint, precision="fp32")
    source, parts = LabelSource(None, pattern=pattern), {}
    for name in ("train", "valid"):
        manifest = Manifest(str(data / f"{name}.tsv"))
        column = source.read(manifest.path, manifest)
        labels = torch.tensor([sorted(column.names).index(column.names[number]) for number in column.numbers])
        audios = [manifest.audio(index) for index in range(len(manifest))]
        frames = extract_layers(model, audios, WindowSettings())
        means = {layer: torch.stack([part.float().mean(dim=0) for part in found]) for layer, found in frames.items()}
        parts[name] = (means, labels)
    means, labels = parts["train"]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    scores = {
        (layer, decay): _accuracy(found[kept], labels[kept], found[held], labels[held], decay)
        for layer, found in means.items()
        for decay in DECAYS
    }
    layer, decay = max(scores, key=lambda key: scores[key])
    return layer, _accuracy(means[layer], labels, parts["valid"][0][layer], parts["valid"][1], decay)


def _accuracy(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, decay: float) -> float:
    """Fit logistic regression on standardised features, and return its accuracy on the test part."""
    mean, scale = x.mean(dim=0), x.std(dim=0) + 1e-6
    x, test_x = (x - mean) / scale, (test_x - mean) / scale
    weight = torch.zeros(int(y.max()) + 1, x.size(1), requires_grad=True)
    bias = torch.zeros(int(y.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType] - torch's type of the closure's result
    return float((F.linear(test_x, weight, bias).argmax(dim=1) == test_y).float().mean())


# -- fine-tuning -------------------------------------------------------------------------------------------------------


def fine_tune(checkpoint: str, data: Path, pattern: str, save_dir: Path, seed: int, updates: int) -> float:
    """Fine-tune with the ten-line config; return the last validation's accuracy."""
    overrides = [
        f"task.data={data}",
        f"task.label_pattern='{pattern}'",
        "task.resample=true",
        "task.normalize=true",
        "task.max_sample_size=48000",
        f"model.w2v_path={checkpoint}",
        "model.pooling=statistics",
        "model.feature_grad_mult=1.0",
        f"model.freeze_finetune_updates={updates // 20}",
        f"common.seed={seed}",
        "common.cpu=true",
        f"optimization.max_update={updates}",
        "optimization.lr=[0.001]",
        "dataset.max_tokens=240000",
        "dataset.num_workers=0",
        f"dataset.validate_interval_updates={updates}",
        "dataset.validate_interval=100000",
        "checkpoint.save_interval=100000",
        f"checkpoint.save_dir={save_dir}",
        f"hydra.run.dir={save_dir}/hydra",
    ]
    config = REPOSITORY / "examples/wav2vec/config/classification"
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", str(config)]
    subprocess.run(
        [*command, "--config-name", "classify", *overrides],
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    rows = [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["accuracy"] for row in rows if row["split"] == "valid"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="classify digits")
    parser.add_argument("checkpoint", help="pre-trained on normalised audio")
    parser.add_argument("--tasks", nargs="+", choices=list(PATTERNS), default=list(PATTERNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--updates", type=int, default=700)
    parser.add_argument("--step", type=int, default=1, help="use every STEPth recording (default: 1, all)")
    parser.add_argument("--json", help="write the results to this file too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_manifests(folder / "data", task, args.step)
            layer, probed = probe(args.checkpoint, folder / "data", PATTERNS[task])
            print(f"{task}: linear probe {100 * probed:.1f} % (layer {layer})", flush=True)
            before, tuned = resource.getrusage(resource.RUSAGE_CHILDREN), {}
            for seed in args.seeds:
                run = folder / f"run{seed}"
                tuned[seed] = fine_tune(args.checkpoint, folder / "data", PATTERNS[task], run, seed, args.updates)
                print(f"{task}: fine-tuned {100 * tuned[seed]:.1f} % (seed {seed})", flush=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        results.append(Result(task, layer, probed, tuned, round(seconds, 1)))
        mean = np.mean(list(tuned.values()))
        verdict = "above" if min(tuned.values()) > probed else "NOT above"
        print(f"{task}: fine-tuned {100 * mean:.1f} % on average, {verdict} the probe with every seed; {seconds:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps([result._asdict() for result in results], indent=1) + "\n")
    sys.exit(0 if all(min(result.tuned.values()) > result.probe for result in results) else 1)


if __name__ == "__main__":
    main()
