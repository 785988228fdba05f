"""Train and score small models with the package's commands, one thread per run; finished runs are skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples/wav2vec"
CONFIGS = EXAMPLES / "config"

Row = tuple[str, str]  # path relative to the root, transcript


def write_split(folder: Path, name: str, root: Path, rows: Sequence[Row]) -> None:
    """Write the manifest and letter labels of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"{path}\t{soundfile.info(root / path).frames}\n" for path, _ in rows)
    (folder / f"{name}.tsv").write_text(f"{root}\n{listed}", encoding="utf-8")
    letters = "".join(" ".join(text.replace(" ", "|")) + " |\n" for _, text in rows)
    (folder / f"{name}.ltr").write_text(letters, encoding="utf-8")


def write_words(folder: Path, rows: Sequence[Row]) -> None:
    """Write the dictionary of letters and the lexicon of words."""
    letters = sorted({letter for _, text in rows for letter in text if letter != " "})
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in ["|", *letters]), encoding="utf-8")
    words = sorted({word for _, text in rows for word in text.split()})
    (folder / "lexicon.txt").write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words), encoding="utf-8")


class Used(NamedTuple):
    """What a process used."""

    seconds: float  # of processor time
    peak_mb: float


def run(module: str, arguments: list[str], log: Path) -> Used:
    """Run one of the package's commands with one thread."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{module} failed. See {log}.")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def run_script(script: Path, arguments: list[str], output: Path) -> None:
    """Run one of the example scripts, with its output in a file."""
    with output.open("w") as file:
        subprocess.run([sys.executable, str(script), *arguments], stdout=file, check=True)


def train(config: Path, save_dir: Path, overrides: list[str]) -> float:
    """Train unless it is done already; returns processor seconds, which are stored next to the checkpoint."""
    cost = save_dir / "processor_seconds.txt"
    if not cost.exists():
        arguments = [
            "--config-dir",
            str(config.parent),
            "--config-name",
            config.stem,
            f"checkpoint.save_dir={save_dir}",
            *overrides,
        ]
        used = run("fairseq_cli.hydra_train", ["common.cpu=true", *arguments], Path(f"{save_dir}.log"))
        cost.write_text(f"{used.seconds:.1f}\n")
    return float(cost.read_text())


def score(data: Path, subset: str, save_dir: Path, lexicon: Path | None) -> dict[str, float]:
    """Decode a subset; returns WER and CER in percent."""
    results = save_dir / f"{subset}-{'lexicon' if lexicon else 'greedy'}"
    arguments = [
        str(data),
        "--path",
        str(save_dir / "checkpoint_last.pt"),
        "--gen-subset",
        subset,
        "--results-path",
        str(results),
    ]
    run(
        "fairseq_cli.infer",
        [*arguments, *(["--lexicon", str(lexicon)] if lexicon else [])],
        results.with_suffix(".log"),
    )
    rates = json.loads((results / "results.json").read_text())["rates"]
    return {name: round(rates[name]["rate"], 2) for name in ("wer", "cer")}
