"""How well fairseq-probe and scores without labels predict the error rate after fine-tuning.

    python benchmarks/probe_study.py finetune AN4 RUN [RUN ...] --work FOLDER
    python benchmarks/probe_study.py probe AN4 RUN [RUN ...] --work FOLDER
    python benchmarks/probe_study.py score AUDIO RUN [RUN ...] --work FOLDER
    python benchmarks/probe_study.py correlate

A RUN is the save_dir of a pre-training run, with the checkpoints of save_interval_updates. AN4 has train.tsv and
dev.tsv, with lines `path<TAB>TRANSCRIPT`, of different speakers. AUDIO is a manifest of unlabelled speech.

`finetune` trains each checkpoint with CTC, with the same seeds and updates, and takes letter errors on dev. Blocks and
output layer are trained; the convolutions are frozen. Each command adds to results/probe_study.json, and leaves out
what is there already. `correlate` prints Spearman's rank correlations over the checkpoints of each run. Updates are
listed next to the scores, because later checkpoints are usually better: a score is of use if it does better than that.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import results_file
from small_runs import CONFIGS, train, write_split, write_words
from unheard_speakers import read_rows

NAME = "probe_study"
SETTINGS = [
    "common.bf16=false",
    "task.augment.speed=1.0",
    "task.augment.eq_db=0",
    "task.augment.noise_db=null",
    "dataset.valid_subset=dev",
    "checkpoint.no_save=true",
    "model.w2v_args=null",
    "model.feature_grad_mult=0.0",
    "model.apply_mask=false",
    *(f"model.{name}=0.0" for name in ("dropout", "attention_dropout", "layerdrop", "final_dropout")),
]


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by their number of updates."""
    found = {}
    for path in run.glob("checkpoint_*_*.pt"):
        if match := re.fullmatch(r"checkpoint_\d+_(\d+)\.pt", path.name):
            found[int(match[1])] = path
    if not found:
        raise SystemExit(f"{run} has no checkpoints such as checkpoint_2_80.pt")
    return dict(sorted(found.items()))


def earlier() -> dict[str, Any]:
    path = results_file.RESULTS / f"{NAME}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: value for key, value in found.items() if key not in ("date", "environment")}


@contextmanager
def locked() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"{NAME}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(name: str, kind: str, value: dict[str, Any]) -> None:
    """Add a checkpoint's result to the file; several of this program may run at the same time."""
    with locked():
        result = earlier()
        entry = result.setdefault("checkpoints", {}).setdefault(name, {})
        entry[kind] = {**entry.get(kind, {}), **value}
        results_file.write(NAME, result)
    print(name, kind, json.dumps(value), flush=True)


def missing(
    runs: Sequence[Path], kind: str, part: str | None = None, only: Sequence[int] = ()
) -> list[tuple[str, Path]]:
    """Name and path of the checkpoints without this result: RUN/UPDATES; `only`: of these updates, in this order."""
    known = earlier().get("checkpoints", {})
    return [
        (f"{run.name}/{updates}", path)
        for run in runs
        for updates, path in _chosen(checkpoints(run), only)
        if kind not in (entry := known.get(f"{run.name}/{updates}", {})) or (part and part not in entry[kind])
    ]


def _chosen(found: dict[int, Path], only: Sequence[int]) -> list[tuple[int, Path]]:
    return [(updates, found[updates]) for updates in only] if only else list(found.items())


def labelled(an4: Path, work: Path) -> Path:
    data = work / "an4"
    if not (data / "lexicon.txt").exists():
        rows = read_rows(an4 / "train.tsv")
        write_split(data, "train", an4, rows)
        write_split(data, "dev", an4, read_rows(an4 / "dev.tsv"))
        write_words(data, rows)
    return data


# -- fine-tuning -------------------------------------------------------------------------------------------------------


def finetune(args: argparse.Namespace) -> None:
    data = labelled(args.data.resolve(), args.work)

    def trial(job: tuple[str, Path, int]) -> tuple[str, dict[str, Any]]:
        name, path, seed = job
        save_dir = args.work / f"{name.replace('/', '-')}-{seed}-{args.updates}"
        seconds = train(
            CONFIGS / "finetuning/small_from_scratch.yaml",
            save_dir,
            [
                *SETTINGS,
                f"task.data={data}",
                f"common.seed={seed}",
                f"optimization.max_update={args.updates}",
                f"optimization.lr=[{args.rate}]",
                f"model.w2v_path={path}",
            ],
        )
        rows = [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]
        last = [row for row in rows if row["split"] == "dev"][-1]
        return name, {str(seed): {"cer": last["uer"], "loss": last["nll_loss"], "seconds": round(seconds, 1)}}

    jobs = [(*job, seed) for seed in args.seeds for job in missing(args.runs, "finetuned", str(seed), args.only)]
    with ThreadPoolExecutor(args.at_once) as pool:
        for name, found in pool.map(trial, jobs):
            keep(name, "finetuned", found)
    keep_settings(finetuning={"settings": SETTINGS, "updates": args.updates, "lr": args.rate})


def keep_settings(**values: Any) -> None:
    with locked():
        results_file.write(NAME, {**earlier(), **values})


# -- probe and scores --------------------------------------------------------------------------------------------------


def probe(args: argparse.Namespace) -> None:
    from fairseq_cli import probe as command

    data = labelled(args.data.resolve(), args.work)
    for name, path in missing(args.runs, "probe"):
        (row,) = command.main(
            command.get_parser().parse_args([str(path), "--data", str(data), "--valid-subset", "dev"])
        )
        assert "cer" in row
        keep(name, "probe", {"cer": row["cer"]["rate"], **{key: row[key] for key in ("loss", "layer", "seconds")}})


def score(args: argparse.Namespace) -> None:
    import probe_scores

    from fairseq_cli import probe as command

    for name, path in missing(args.runs, "scores"):
        began = time.process_time()
        found = probe_scores.scores(path, args.data.resolve(), args.minutes)
        keep(name, "scores", {**found, "seconds": round(time.process_time() - began, 1)})
    data = ["--data", str(args.data.resolve().parent), "--train-subset", args.data.stem]
    for name, path in missing(args.runs, "codes"):
        arguments = [str(path), *data, "--no-labels", "--minutes", str(args.minutes)]
        (row,) = command.main(command.get_parser().parse_args(arguments))
        assert "information" in row
        keep(name, "codes", {"code information": row["information"], "seconds": row["seconds"]})


# -- correlations ------------------------------------------------------------------------------------------------------


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values have the mean of their ranks."""
    one, other = _ranks(first), _ranks(second)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def correlate(_: argparse.Namespace) -> None:
    """Correlate each measure with each truth, over the runs in which all checkpoints have both."""
    result = earlier()
    entries: dict[str, dict[str, Any]] = result["checkpoints"]
    columns: dict[str, dict[str, float]] = {"updates": {name: float(name.split("/")[1]) for name in entries}}
    for name, entry in entries.items():
        trials = list(entry.get("finetuned", {}).values())
        for key in ("cer", "loss"):
            if trials:
                columns.setdefault(f"fine-tuned {key}", {})[name] = statistics.mean(trial[key] for trial in trials)
            if "probe" in entry:
                columns.setdefault(f"probe {key}", {})[name] = entry["probe"][key]
        for key, value in {**entry.get("codes", {}), **entry.get("scores", {})}.items():
            if key != "seconds":
                columns.setdefault(key, {})[name] = value
    runs = list(dict.fromkeys(name.split("/")[0] for name in entries))
    groups = {run: [name for name in entries if name.startswith(f"{run}/")] for run in runs}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for truth in ("fine-tuned cer", "fine-tuned loss", "probe loss"):
        known = columns.get(truth, {})
        complete = {group: names for group, names in groups.items() if all(name in known for name in names)}
        table[truth] = {
            measure: {
                group: round(spearman([found[name] for name in names], [known[name] for name in names]), 3)
                for group, names in complete.items()
                if all(name in found for name in names)
            }
            for measure, found in columns.items()
            if measure != truth
        }
        print(f"\nSpearman with {truth}".ljust(45), *(f"{group:>9}" for group in complete))
        for measure, row in table[truth].items():
            print(measure.ljust(44), *(f"{row.get(group, float('nan')):9.2f}" for group in complete))
    result["spearman"] = table
    results_file.write(NAME, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    functions: dict[str, Callable[[argparse.Namespace], None]] = {
        "finetune": finetune,
        "probe": probe,
        "score": score,
        "correlate": correlate,
    }
    for name in functions:
        command = commands.add_parser(name)
        if name == "correlate":
            continue
        command.add_argument("data", type=Path, help="a manifest" if name == "score" else "folder of AN4")
        command.add_argument("runs", type=Path, nargs="+")
        command.add_argument("--work", type=Path, required=True, help="folder for data and fine-tuning runs")
        if name == "score":
            command.add_argument("--minutes", type=float, default=3.0, help="of the manifest's audio (default: 3)")
        if name == "finetune":
            command.add_argument("--seeds", type=int, nargs="+", default=[1])
            command.add_argument("--updates", type=int, default=400)
            command.add_argument("--only", type=int, nargs="+", default=[], help="updates of the checkpoints to train")
            command.add_argument("--rate", type=float, default=0.001)
            command.add_argument("--at-once", type=int, default=1, help="runs at the same time (default: 1)")
    args = parser.parse_args()
    if args.command != "correlate":
        args.work = args.work.resolve()
    functions[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
