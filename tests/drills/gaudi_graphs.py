"""Find graphs that Gaudi's lazy mode would recompile repeatedly, in this checkout or an older one.

    python -m tests.drills.gaudi_graphs [--tree CHECKOUT]

Runs this checkout's `fairseq-preflight` on the recipe's pre-training and on CTC fine-tuning with `sentence_avg`, each
over 12 updates with varying temperatures, learning rates, numbers of utterances, shapes and epochs, with and without a
log line. With `--tree`, the model, criterion, optimizer and trainer are that checkout's; only the checker
(`fairseq/preflight`, `fairseq/device`) is this one's. Prints the file and line of each cause; exits with 1 if there is
one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.drills.cases import ROOT
from tests.integration.conftest import write_audio, write_manifest
from tests.integration.finetuning_runs import CONV, LETTERS, TINY, write_labels

CHECKER = ("preflight", "device")
SHORT = [
    "dataset.required_batch_size_multiple=1",
    "dataset.num_workers=0",
    "task.num_batch_buckets=2",
    "dataset.max_tokens=96000",
]
RUNS = {
    "pre-training": [
        "--config-dir",
        "examples/wav2vec/config/pretraining",
        "--config-name",
        "wav2vec2_base_librispeech_hpu",
        "dataset.batch_size=4",
        "task.max_sample_size=24000",
        "task.min_sample_size=8000",
        "model.encoder_layers=2",
        f"+model.conv_feature_layers='{CONV}'",
    ],
    "CTC with sentence_avg": [
        "--config-dir",
        "examples/wav2vec/config/finetuning",
        "--config-name",
        "base_10h_hpu",
        "optimization.sentence_avg=true",
    ],
}


def overlay(tree: Path, folder: Path) -> Path:
    """Make a package path with another checkout's code and this one's checker."""
    package = folder / "fairseq"
    package.mkdir(parents=True)
    for entry in (tree / "fairseq").iterdir():
        if entry.name not in (*CHECKER, "__pycache__"):
            (package / entry.name).symlink_to(entry)
    for name in CHECKER:
        (package / name).symlink_to(ROOT / "fairseq" / name)
    for name in ("fairseq_cli", "hydra_plugins", "examples"):
        (folder / name).symlink_to(tree / name)
    return folder


def write_data(folder: Path) -> list[str]:
    """Write 12 utterances with labels, a dictionary and a pre-trained model; returns overrides for fine-tuning."""
    files = [folder / "audio" / f"{i:02d}.flac" for i in range(12)]
    for i, file in enumerate(files):
        write_audio(file, 0.8 + 0.06 * i, seed=i)
    for name, part in (("train", files[:9]), ("valid", files[9:]), ("dev_other", files[9:])):
        write_manifest(folder / f"{name}.tsv", folder, part)
        write_labels(folder / f"{name}.ltr", len(part), seed=len(part))
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|" + LETTERS))
    from fairseq.models.wav2vec import Wav2Vec2Model

    cfg = {"model": TINY, "task": {"_name": "audio_pretraining", "data": "gone", "normalize": False}, "common": {}}
    torch.save({"cfg": cfg, "model": Wav2Vec2Model(TINY).state_dict(), "args": None}, folder / "w2v.pt")
    return [f"model.w2v_path={folder / 'w2v.pt'}"]


def look(path: Path, data: Path, words: list[str]) -> tuple[list[str], int]:
    """Return preflight's findings on recompiled graphs, and the number of graphs by the bridge's rule."""
    found = data / "found.json"
    command = [sys.executable, "-m", "fairseq_cli.preflight", "--json", str(found), f"task.data={data}", *SHORT, *words]
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, timeout=900)
    if not found.is_file():
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads(found.read_text())
    found.unlink()
    if "graph_keys" not in report.get("device", {}):
        raise SystemExit(f"the steps were not looked at: {report['problems']}")
    return [problem["what"] for problem in report["problems"] if problem["name"] == "recompiles"], report["device"][
        "graph_keys"
    ]["graphs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose code is checked")
    tree = parser.parse_args().tree.resolve()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        path = overlay(tree, Path(folder) / "path")
        data = Path(folder) / "data"
        pretrained = write_data(data)
        for name, words in RUNS.items():
            told, graphs = look(path, data, [*words, *(pretrained if "CTC" in name else [])])
            print(
                f"{name}: {graphs} graphs by the bridge's rule; places that make new ones again and again: {len(told)}",
                flush=True,
            )
            for what in told:
                print(f"  {what.replace(f'{tree}{os.sep}', '')}", flush=True)
            failed |= bool(told)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
