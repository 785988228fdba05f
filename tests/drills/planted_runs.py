"""Small runs with one planted fault each: the doctor names it, and nothing that is not its consequence.

python -m tests.drills.planted_runs [--only NAME ...] [--data ../shared/data] [--keep FOLDER] [--seed 11]
python -m tests.drills.planted_runs --healthy RUN_DIR ...

The faults are in the modules planted_runs_*.py of this folder. Each trains on CPU for seconds to two minutes, on real
speech. A run is examined as the live doctor sees it, after each log interval, so the table says at which update a
finding was there. `--healthy` examines finished runs the same way: they, and a run with NVIDIA's published accuracies,
must raise no alarm at any update.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf

import fairseq.checkpoint.io
import fairseq.doctor.causes  # registers the causes
import tests.drills
from fairseq.doctor.findings import Finding, examine
from fairseq.doctor.records import INTERVAL, Records, Row, Rows
from fairseq.logging.metrics_file import Json
from tests.planted import Corpus, Utterance, healthy
from tests.warm import REPOSITORY, Warm

CONFIGS = REPOSITORY / "examples/wav2vec/config"
SMALL = (  # a model of 0.2 million parameters; an update takes 0.05 s of one core
    "model.conv_feature_layers=[(32,10,5)] + [(32,3,2)]*4 + [(32,2,2)]*2",
    "model.encoder_layers=2",
    "model.encoder_embed_dim=64",
    "model.encoder_ffn_embed_dim=128",
    "model.final_dim=32",
    "model.conv_pos=16",
)
ALARMS = ("error", "warning")


class Scene(NamedTuple):
    """Where a planted run happens."""

    folder: Path  # empty; the run's save_dir is its folder `run`
    data: Path  # real speech
    warm: Warm
    seed: int = 1

    def speech(self, num: int, skip: int = 0) -> list[Utterance]:
        """Return real utterances of 1 to 6 s, always the same ones."""
        return list(islice(healthy(self.data), skip, skip + num))

    def corpus(self, train: Sequence[Utterance], valid: Sequence[Utterance]) -> Path:
        """Write audio, manifests and labels; returns the folder for task.data."""
        folder = self.folder / "corpus"
        for name, utterances in (("train", train), ("valid", valid)):
            corpus = Corpus(folder, name)
            for utterance in utterances:
                corpus.add(utterance)
            corpus.write()
        letters = "|'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in letters))
        return folder

    def healthy_corpus(self) -> Path:
        return self.corpus(self.speech(120), self.speech(12, skip=120))

    def pretraining(self, data: Path, updates: int, *overrides: str) -> list[str]:
        """Return the arguments of a small pre-training run; 20 s of audio per update, a log line every 10."""
        return self._arguments(
            "wav2vec2_demo",
            CONFIGS / "pretraining",
            (
                f"task.data={data}",
                f"optimization.max_update={updates}",
                "dataset.max_tokens=320000",
                *(option for option in SMALL if option.split("=")[0] not in {one.split("=")[0] for one in overrides}),
                *overrides,
            ),
        )

    def fine_tuning(self, data: Path, checkpoint: Path, updates: int, *overrides: str) -> list[str]:
        """Return the arguments of a small CTC run from a checkpoint of a run of `pretraining`."""
        return self._arguments(
            "demo_20m",
            CONFIGS / "finetuning",
            (
                f"task.data={data}",
                f"model.w2v_path={checkpoint}",
                f"optimization.max_update={updates}",
                "dataset.max_tokens=160000",
                *overrides,
            ),
        )

    def _arguments(self, name: str, configs: Path, overrides: Sequence[str]) -> list[str]:
        ours = ("common.log_interval=10", "dataset.validate_interval_updates=50", "dataset.num_workers=0")
        taken = {one.split("=")[0].lstrip("+") for one in overrides}
        return [
            f"--config-dir={configs}",
            f"--config-name={name}",
            f"checkpoint.save_dir={self.folder / 'run'}",
            f"hydra.run.dir={self.folder / 'hydra'}",
            f"common.seed={self.seed}",
            *(option for option in ours if option.split("=")[0] not in taken),
            *(_quoted(option) for option in overrides),
        ]

    def train(self, arguments: Sequence[str], may_fail: bool = False) -> Path:
        """Train, and return the run's folder.

        Raises:
            RuntimeError: the run failed.
        """
        done = self.warm.module("fairseq_cli.hydra_train", arguments, self.folder)
        if done.code and not may_fail:
            raise RuntimeError(f"the run in {self.folder} failed:\n{done.output[-3000:]}")
        return self.folder / "run"


def _quoted(option: str) -> str:
    """Quote a value with brackets of its own for hydra's grammar."""
    key, _, value = option.partition("=")
    return f'{key}="{value}"' if value.startswith("[(") else option


class Fault(NamedTuple):
    """A planted fault.

    Args:
        name: what is planted.
        finding: the cause that must be found, as a warning or an error; empty: none, the run is healthy. Where chance
            decides between two, both, with " or " between them.
        by: the update by which it must be found; of a run examined after each log interval.
        run: trains the run, and returns its folder.
        allowed: findings that are consequences of the fault.
    """

    name: str
    finding: str
    by: int
    run: Callable[[Scene], Path]
    allowed: Sequence[str] = ()


def faults() -> list[Fault]:
    """Collect `FAULTS` of the modules planted_runs_*.py of this folder."""
    found: list[Fault] = []
    for module in pkgutil.iter_modules(tests.drills.__path__):
        if module.name.startswith("planted_runs_"):
            found += importlib.import_module(f"tests.drills.{module.name}").FAULTS
    return found


def read(folder: Path) -> Records:
    """Read a run's records; the config from its last checkpoint if there is no run.jsonl."""
    if importlib.util.find_spec("fairseq.doctor.reading"):
        records: Records = importlib.import_module("fairseq.doctor.reading").read_run(folder, config_of)
        return records
    rows: dict[str, Rows] = {}
    for row in _lines(folder / "metrics.jsonl"):
        rows.setdefault(str(row["split"]), Rows()).append(row)
    codes, hypotheses = _lines(folder / "codes.jsonl"), _lines(folder / "hypotheses.jsonl")
    return Records(rows, config_of(folder), codes=codes, hypotheses=hypotheses, is_over=True)


def config_of(folder: Path) -> dict[str, Json]:
    """Return the config of a run's last checkpoint, as plain values."""
    state = fairseq.checkpoint.io.load(folder / "checkpoint_last.pt")
    config: dict[str, Json] = json.loads(json.dumps(OmegaConf.to_container(OmegaConf.create(state["cfg"]))))
    return config


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def moments(records: Records) -> Iterator[tuple[int, Records]]:
    """Yield what the records were after each log interval, and at last all of them."""
    updates = records.training.updates.tolist()
    splits = {INTERVAL: records.rows(INTERVAL), "train": records.rows("train"), **records.validation}
    for update in updates[:-1]:
        yield update, _until(records, splits, update)
    yield (updates[-1] if updates else 0), records


def _until(records: Records, splits: dict[str, Rows], update: int) -> Records:
    def early(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if _update(row) <= update]

    so_far = copy.copy(records)  # the config, the environment and what else does not grow
    so_far._rows = {name: Rows(early(rows.rows)) for name, rows in splits.items()}
    so_far.codes, so_far.hypotheses = early(records.codes), early(records.hypotheses)
    so_far.starts = [start for start in records.starts if start <= update]
    so_far.is_over = False
    return so_far


def _update(row: Row) -> int:
    return int(str(row["num_updates"]))


class Seen(NamedTuple):
    """A finding, and the update after which it was first there."""

    finding: Finding
    update: int


def alarms(records: Records) -> dict[str, Seen]:
    """Return the first alarm of each name, over all moments of the run."""
    seen: dict[str, Seen] = {}
    for update, so_far in moments(records):
        for finding in examine(so_far):
            if finding.severity in ALARMS:
                seen.setdefault(finding.name, Seen(finding, update))
    return seen


def check(fault: Fault, found: dict[str, Seen]) -> tuple[str, bool]:
    """Return a line of the table, and whether the findings are right."""
    if not fault.finding:
        return f"{fault.name:<34} {'no alarm':<26} " + (f"WRONG: {', '.join(found)}" if found else ""), not found
    names = fault.finding.split(" or ")
    right = min((found[name] for name in names if name in found), key=lambda seen: seen.update, default=None)
    others = [name for name in found if name not in names]
    wrong = [name for name in others if name not in fault.allowed]
    good = right is not None and right.update <= fault.by and not wrong
    first = f"update {right.update}" if right else "NOT FOUND"
    also = f"also {', '.join(name for name in others if name in fault.allowed)}" if len(others) > len(wrong) else ""
    line = f"{fault.name:<34} {fault.finding:<26} {first:<12} by {fault.by:<6} {also}"
    return line + (f" WRONG: {', '.join(wrong)}" if wrong else ""), good


# LibriSpeech, base model, mean accuracy of 8 seeds at 50k, 100k ... 400k updates: NVIDIA DeepLearningExamples,
# PyTorch/SpeechRecognition/wav2vec2, README, "Training accuracy"
NVIDIA = (0.491, 0.537, 0.564, 0.580, 0.599, 0.610, 0.619, 0.629)


def nvidia() -> Records:
    """Make a run of the base config with the published accuracies, a row every 200 updates.

    Its plateau is one of 3,000 updates, its noise 0.01; what was not published is left out.
    """
    updates = np.arange(200, 400_001, 200)
    accuracy = np.interp(updates, [0, 3000, *range(50_000, 400_001, 50_000)], [0.01, 0.015, *NVIDIA])
    noise = np.random.default_rng(1).normal(0, 0.01, len(updates))
    warm, end = 32_000, 400_000
    lr = 0.0005 * np.minimum(updates / warm, (end - updates) / (end - warm))
    training = Rows(
        {"num_updates": int(update), "epoch": 1 + int(update) // 2250, "accuracy": float(value), "lr": float(rate)}
        for update, value, rate in zip(updates, np.maximum(accuracy + noise, 0.0), lr, strict=True)
    )
    valid = Rows(
        {"num_updates": 50_000 * number, "epoch": 22 * number, "accuracy": value}
        for number, value in enumerate(NVIDIA, start=1)
    )
    config = {
        "optimization": {"max_update": 400_000, "lr": [0.0005]},
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32_000},
        "criterion": {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10]},
        "model": {"_name": "wav2vec2", "mask_prob": 0.65, "mask_length": 10, "num_negatives": 100, "latent_vars": 320},
    }
    return Records({INTERVAL: training, "valid": valid}, config, is_over=True)


def examine_healthy(folders: Sequence[Path]) -> int:
    """Print the alarms of finished runs and of NVIDIA's curve; returns their number."""
    runs = [(str(folder), read(folder)) for folder in folders]
    total = 0
    for name, records in [*runs, ("NVIDIA's accuracies", nvidia())]:
        found = alarms(records)
        total += len(found)
        print(f"{name:<60} {len(found)} alarms")
        for seen in found.values():
            print(f"  update {seen.update}: {seen.finding.name}: {seen.finding.title} {list(seen.finding.evidence)}")
    print(f"{len(runs) + 1} healthy runs: {total} alarms")
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults to plant, by name")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared/data")
    parser.add_argument("--keep", type=Path, help="keep the runs here; a run that is there is not trained again")
    parser.add_argument("--healthy", nargs="*", type=Path, metavar="RUN_DIR", help="examine finished healthy runs")
    parser.add_argument("--seed", type=int, default=1, help="of all runs; thresholds were set with 1 and 7")
    parser.add_argument("--say", action="store_true", help="print the findings in full")
    args = parser.parse_args()
    if args.healthy is not None:
        return 1 if examine_healthy(args.healthy) else 0
    chosen = [fault for fault in faults() if not args.only or fault.name in args.only]
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary, Warm() as warm:
        for fault in chosen:
            folder = (args.keep or Path(temporary)).resolve() / fault.name.replace(" ", "-")
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                ran = fault.run(Scene(folder, args.data.resolve(), warm, args.seed))
                (folder / "done").write_text(str(ran))
            found = alarms(read(Path((folder / "done").read_text())))
            line, good = check(fault, found)
            wrong += not good
            print(line, flush=True)
            if args.say:
                for seen in found.values():
                    print(json.dumps({"found_at": seen.update, **seen.finding._asdict()}, indent=1))
    print(f"{len(chosen)} planted runs: {len(chosen) - wrong} right, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
