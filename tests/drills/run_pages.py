"""Reports of runs in a real browser without a network: a run of 400,000 logged updates, one with findings, several.

    python -m tests.drills.run_pages [--updates 400000] [--pictures FOLDER] [RUN_DIR ...]

Needs Chromium, and axe-playwright-python for the accessibility checker; see tests/drills/pages.py. RUN_DIR: further
runs, each of which gets a page of its own, and one together.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.drills.pages import look_at

SECONDS = 10.0  # for the page of the long run
BYTES = 2_000_000
GROUPS, CODEWORDS = 2, 320


def write_run(folder: Path, updates: int, interval: int, seed: int = 1, ctc: bool = False) -> None:
    """Write the records of a run that never was: all files, all columns that runs of this project have."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    every = max(interval, updates // 100 // interval * interval)
    with open(folder / "metrics.jsonl", "w") as metrics, open(folder / "codes.jsonl", "w") as codes:
        for update in range(interval, updates + 1, interval):
            done = update / updates
            row = {"split": "train_inner", "num_updates": update, "epoch": 1 + update // every, **_row(done, draw, ctc)}
            metrics.write(json.dumps(row) + "\n")
            if update % every:
                continue
            for split in ("train", "valid"):
                row = {"split": split, "num_updates": update, "epoch": update // every, **_row(done, draw, ctc)}
                metrics.write(json.dumps(row) + "\n")
                codes.write(json.dumps({"num_updates": update, "split": split, **_codes(done, draw)}) + "\n")
    start = {"time": "2026-11-29 02:00", "num_updates": 0, "config": _config(ctc), "data": _data()}
    start["environment"] = {"processor": "AMD EPYC", "cores": 2, "devices": ["cpu"], "versions": {"torch": "2.9.1"}}
    lines = [start, {**start, "num_updates": updates // 2}]
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ctc:
        _write_hypotheses(folder / "hypotheses.jsonl", updates, every, draw)


def _row(done: float, draw: random.Random, ctc: bool) -> dict[str, float]:
    noise, spike = draw.gauss(0, 1), 20.0 if draw.random() < 1e-3 else 0.0
    learnt = 1 - math.exp(-4 * done)
    row = {
        "loss": round(6.658 - 3 * learnt + 0.1 * noise + 0.1, 3),
        "lr": 5e-4 * min(done / 0.08, (1 - done) / 0.92 + 1e-3),
        "gnorm": round(0.4 + 0.1 * abs(noise) + spike, 3),
        "clip": round(min(100.0, 30 + 10 * abs(noise)), 1),
        "wps": round(9000 + 100 * noise, 1),
        "ups": round(1.5 + 0.02 * noise, 2),
        "audio_s_per_s": round(700 + 8 * noise - 100 * done, 1),
        "audio_s_per_update": round(5600 + 50 * noise, 1),
        "data_wait": round(4 + abs(noise), 1),
        "time_forward": round(28 + noise, 1),
        "time_backward": round(45 - noise, 1),
        "time_exchange": 8.0,
        "time_optimizer": 4.0,
        "time_validate": 3.0,
        "time_save": 1.5,
        "padding": round(7 + 0.3 * noise, 2),
        "host_gb": round(4 + 2 * done, 3),
        "wall": round(done * 3e5),
    }
    if ctc:
        errors = {"nll_loss": row["loss"] / 2, "uer": 100 - 90 * learnt, "wer": 100 - 70 * learnt}
        return {**row, **errors, "blank_share": 99 - 40 * learnt}
    learning = {
        "loss_0": round(row["loss"] - 0.1, 3),
        "loss_1": round(0.05 - 0.03 * learnt, 4),
        "loss_2": round(0.5 * math.exp(-9 * done), 4),
        "accuracy": round(0.01 + 0.6 * learnt + 0.01 * noise, 4),
        "code_perplexity": round(150 + 300 * learnt + 5 * noise, 2),
        "prob_perplexity": round(200 + 300 * learnt + 5 * noise, 2),
        "temp": max(0.5, 2 * 0.999995 ** int(400_000 * done)),
        "masked_share": round(49 + 0.2 * noise, 2),
    }
    return {**row, **learning}


def _codes(done: float, draw: random.Random) -> dict[str, object]:
    used = int(CODEWORDS * (1 - 0.4 * done))
    counts = [
        [int(draw.expovariate(1 / 400)) if (7 * v) % CODEWORDS < used else 0 for v in range(CODEWORDS)]
        for _ in range(GROUPS)
    ]
    return {"counts": counts, "dead": [row.count(0) for row in counts], "changed": round(0.5 * (1 - done), 3)}


def _config(ctc: bool) -> dict[str, object]:
    names = ("wav2vec_ctc", "audio_finetuning", "ctc") if ctc else ("wav2vec2", "audio_pretraining", "wav2vec")
    groups: dict[str, object] = {
        group: {"_name": name} for group, name in zip(("model", "task", "criterion"), names, strict=True)
    }
    return {**groups, "optimization": {"max_update": 400_000, "lr": [0.0007], "update_freq": [64]}}


def _data() -> dict[str, object]:
    return {"train": {"utterances": 281_241, "hours": 960.9}, "valid": {"utterances": 2_703, "hours": 5.4}}


def _write_hypotheses(path: Path, updates: int, every: int, draw: random.Random) -> None:
    references = ["THE CAT SAT ON THE MAT", "<b>LEFT & RIGHT</b>", "HE HOPED THERE WOULD BE STEW FOR DINNER " * 6]
    with open(path, "w") as file:
        for update in range(every, updates + 1, every):
            for number, reference in enumerate(references):
                kept = "".join(letter for letter in reference if draw.random() < update / updates)
                row = {"num_updates": update, "split": "valid", "id": f"84-121123-{number:04d}"}
                file.write(json.dumps({**row, "reference": reference.strip(), "hypothesis": kept.strip()}) + "\n")


def build(page: Path, folders: list[Path], limit: float = math.inf) -> list[str]:
    """Run fairseq-report; returns what is wrong with its time or its size."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "fairseq_cli.report", *map(str, folders), "-o", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return [f"{page.name}: fairseq-report returned {done.returncode}: {done.stderr[-500:]}"]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size, memory = page.stat().st_size, after.ru_maxrss / 1e6
    print(f"{page.name}: {size / 1e6:.2f} MB, {seconds:.1f} s of processor time, at most {memory:.1f} GB", flush=True)
    found = [f"{page.name}: {seconds:.1f} s of processor time"] if seconds > limit else []
    return found + ([f"{page.name}: {size:,} bytes"] if size > BYTES else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--updates", type=int, default=400_000, help="of the long run, each with a row")
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "long", args.updates, 1)
        write_run(folder / "fine-tuned", 20_000, 200, ctc=True)
        for seed in (1, 2, 3):
            write_run(folder / f"short-{seed}", 2_000, 20, seed=seed)
        pages = {
            "long": [folder / "long"],
            "fine-tuned": [folder / "fine-tuned"],
            "several": [folder / f"short-{seed}" for seed in (1, 2, 3)],
            **{run.name: [run] for run in args.runs},
        }
        if len(args.runs) > 1:
            pages["together"] = args.runs
        for title, folders in pages.items():
            page = folder / f"{title}.html"
            found += build(page, folders, SECONDS if title == "long" else math.inf)
            if page.is_file():
                pictures = None if args.pictures is None else args.pictures / title
                found += [f"{title}: {problem}" for problem in look_at(page, pictures)]
    print("\n".join(found) or "nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
