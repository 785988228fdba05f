"""Full fine-tuning, adapters and LoRA on real speech (AN4), from the same model, three seeds each.

    python benchmarks/cheap_tuning.py tune AN4 --work FOLDER [--seeds 1 2 3] [--updates N] [--save]
    python benchmarks/cheap_tuning.py memory --work FOLDER [--save]

AN4 has train.tsv and dev.tsv, with lines `path<TAB>TRANSCRIPT`, next to the audio. The start is a model that was
trained with CTC on synthetic speech only: sentences of AN4's kind, spoken by espeak-ng. Each method's learning rate is
the one of three with the lowest CER at seed 0; seeds 1, 2, 3 are counted. After each run, all tensors that the method
does not train are compared with the start, bit for bit.

`memory` trains a few updates of the base model (94 M parameters) on the labels that `tune` wrote, a process each, and
prints the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import string
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import results_file
import soundfile
import torch
from small_runs import CONFIGS, EXAMPLES, Row, run, score, train, write_split, write_words
from unheard_speakers import read_rows

CONFIG = CONFIGS / "finetuning/small_from_scratch.yaml"
UTTERANCES = (4000, 40)  # synthetic: train and valid
SHORT = 0.75  # share of those that have one or two words: CTC learns fastest from them
START_UPDATES = 2000
MEMORY_UPDATES = 3
RATES = {"all": (0.001, 0.002, 0.004), "adapters": (0.004, 0.01, 0.02), "lora": (0.004, 0.01, 0.02)}
METHODS = {
    "all": [],
    "adapters": ["model.tuning=adapters", "model.layer_type=trf_adp", "model.adp_num=1", "model.adp_dim=16"],
    "lora": ["model.tuning=lora", "model.lora_rank=2", "model.lora_alpha=4"],
}
# of all methods alike: the little data of AN4 is not augmented, masked or dropped
PLAIN = [
    "task.augment.speed=1.1",
    "task.augment.eq_db=0",
    "task.augment.noise_db=null",
]
NO_MASKS = ["model.w2v_args.model.mask_prob=0.0", "model.w2v_args.model.mask_channel_prob=0.0"]


# -- the start ---------------------------------------------------------------------------------------------------------


def synthesize(folder: Path, training: list[Row]) -> None:
    """Write spoken sentences: AN4's, with every letter and word replaced by a random one."""
    sys.path.insert(0, str(EXAMPLES / "demo"))
    from make_corpus import ACCENTS, FEMALE, MALE, noise_floor
    from speech_synthesis import SAMPLE_RATE, Synthesizer, Voice

    rng, synthesizer = np.random.default_rng(7), Synthesizer()
    words = sorted({word for _, text in training for word in text.split() if len(word) > 1})
    voices = [f"{accent}+{variant}" for accent in ACCENTS for variant in MALE + FEMALE]
    (folder / "flac").mkdir(parents=True)
    for name, count in zip(("train", "valid"), UTTERANCES, strict=True):
        rows: list[Row] = []
        for number in range(count):
            pattern = training[int(rng.integers(len(training)))][1].split()
            if rng.random() < SHORT:
                pattern = pattern[: int(rng.integers(1, 3))]
            text = [str(rng.choice(list(string.ascii_uppercase) if len(word) == 1 else words)) for word in pattern]
            voice = Voice(
                str(rng.choice(voices)),
                int(rng.integers(110, 200)),
                int(rng.integers(15, 75)),
                int(rng.integers(20, 80)),
            )
            spoken = [word if len(word) == 1 else word.lower() for word in text]  # capitals: espeak-ng spells them
            wave = synthesizer.speak(spoken, [0] * len(spoken), voice, int(rng.integers(1, 2**31)))
            wave = 0.1 * wave / np.sqrt(np.mean(wave**2))
            wave += noise_floor(len(wave), rng) * 0.1 * 10 ** (-rng.uniform(20, 40) / 20)
            path = f"flac/{name}-{number:04d}.flac"
            soundfile.write(folder / path, np.clip(wave, -1, 1), SAMPLE_RATE, subtype="PCM_16")
            rows.append((path, " ".join(text)))
        write_split(folder, name, folder, rows)


def start(work: Path, training: list[Row]) -> Path:
    """Train the start unless that is done; returns its checkpoint."""
    corpus = work / "synthetic"
    if not (corpus / "dict.ltr.txt").exists():
        synthesize(corpus, training)
        write_words(corpus, training)
    settings = ["common.bf16=false", f"optimization.max_update={START_UPDATES}", "optimization.lr=[0.001]"]
    seconds = train(CONFIG, work / "start", [f"task.data={corpus}", *settings, *PLAIN, *NO_MASKS])
    print(f"start: {seconds:.0f} processor seconds, {score(corpus, 'valid', work / 'start', None)}", flush=True)
    return work / "start/checkpoint_last.pt"


# -- tuning ------------------------------------------------------------------------------------------------------------


def tune(args: argparse.Namespace) -> dict[str, Any]:
    root = args.data.resolve()
    training, dev = read_rows(root / "train.tsv"), read_rows(root / "dev.tsv")
    data = args.work / "labelled"
    write_split(data, "train", root, training)
    write_split(data, "dev", root, dev)
    write_words(data, training)
    first = start(args.work, training)
    unadapted = score(data, "dev", first.parent, None)
    print("start on AN4, not tuned:", json.dumps(unadapted), flush=True)

    def trial(job: tuple[str, float, int]) -> dict[str, Any]:
        method, rate, seed = job
        save_dir = args.work / f"{method}-{rate}-{seed}-{args.updates}"
        seconds = train(
            CONFIG,
            save_dir,
            [
                f"task.data={data}",
                "common.bf16=false",
                "dataset.disable_validation=true",
                f"common.seed={seed}",
                f"optimization.max_update={args.updates}",
                f"optimization.lr=[{rate}]",
                f"model.w2v_path={first}",
                "model.w2v_args=null",
                "model.apply_mask=false",
                *PLAIN,
                *METHODS[method],
            ],
        )
        found = {"method": method, "lr": rate, "seed": seed, "seconds": round(seconds, 1)}
        found |= score(data, "dev", save_dir, None) | compared(first, save_dir / "checkpoint_last.pt")
        print(json.dumps(found), flush=True)
        return found

    with ThreadPoolExecutor(args.at_once) as pool:
        chosen = {}
        trials = list(pool.map(trial, [(method, rate, 0) for method in METHODS for rate in RATES[method]]))
        for method in METHODS:
            chosen[method] = min((row for row in trials if row["method"] == method), key=lambda row: row["cer"])["lr"]
        counted = list(pool.map(trial, [(method, chosen[method], seed) for method in METHODS for seed in args.seeds]))
    means = {
        method: round(statistics.mean(row["cer"] for row in counted if row["method"] == method), 2)
        for method in METHODS
    }
    print("mean CER of the counted seeds:", json.dumps(means), flush=True)
    return {"not_tuned": unadapted, "trials": trials, "counted": counted, "mean_cer": means, "updates": args.updates}


def compared(first: Path, last: Path) -> dict[str, Any]:
    """Compare a run's weights with those it started from: the share of trained ones, and whether the rest is equal."""
    before, after = (torch.load(path, map_location="cpu", weights_only=True) for path in (first, last))
    old, new = before["model"], after["model"]
    total = sum(tensor.numel() for tensor in new.values())
    changed = [name for name, tensor in new.items() if name not in old or not torch.equal(tensor, old[name])]
    trained = sum(new[name].numel() for name in changed)
    state = after["last_optimizer_state"]["state"]
    kept = sum(value.numel() for entry in state.values() for value in entry.values() if torch.is_tensor(value))
    return {
        "parameters": total,
        "trained_percent": round(100 * trained / total, 2),
        "equal_tensors": len(new) - len(changed),
        "optimizer_numbers": kept,
    }


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a few updates of the base model by method, in MB; everything included."""
    return {method: _peak(args.work, method) for method in METHODS}


def _peak(work: Path, method: str) -> int:
    shape = {
        "conv_feature_layers": "'[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2'",
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "conv_pos": 128,
    }
    settings = [
        f"task.data={work / 'labelled'}",
        "common.cpu=true",
        "common.bf16=false",
        "dataset.disable_validation=true",
        f"optimization.max_update={MEMORY_UPDATES}",
        "checkpoint.no_save=true",
        f"checkpoint.save_dir={work / 'memory' / method}",
        f"hydra.run.dir={work / 'memory' / method}",
        "model.feature_grad_mult=0.0",
        *(f"model.w2v_args.model.{name}={value}" for name, value in shape.items()),
        *METHODS[method],
    ]
    folder = ["--config-dir", str(CONFIG.parent), "--config-name", CONFIG.stem]
    return round(run("fairseq_cli.hydra_train", [*folder, *settings], work / "memory" / f"{method}.log").peak_mb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tuning = commands.add_parser("tune")
    tuning.add_argument("data", type=Path, metavar="AN4")
    tuning.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    tuning.add_argument("--updates", type=int, default=1000)
    tuning.add_argument("--at-once", type=int, default=2)
    for command in (tuning, commands.add_parser("memory")):
        command.add_argument("--work", type=Path, required=True)
        command.add_argument("--save", action="store_true", help="write benchmarks/results/cheap_tuning.json")
    args = parser.parse_args()
    args.work = args.work.resolve()
    found = {"tune": tune, "memory": memory}[args.command](args)
    print(json.dumps(found, indent=1))
    if args.save:
        path = results_file.RESULTS / "cheap_tuning.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = {key: value for key, value in earlier.items() if key in ("tune", "memory")}
        results_file.write("cheap_tuning", {**kept, args.command: found})


if __name__ == "__main__":
    main()
