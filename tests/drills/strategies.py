"""Do DDP, flat and fully_sharded train the same? On real speech, in two processes on CPU.

    python -m tests.drills.strategies [--updates N] [--cases base conformer] [--data FOLDER]

Every strategy trains the same model from the same config, with dropout, layerdrop, two micro-batches per update,
activation checkpointing and a running average. Prints the largest relative difference of the losses from DDP's, and the
bytes that each process holds. The exit status is 1 if the losses of any update differ by more than 1e-5, or if a
sharded process holds more than 0.55 of the parameters and optimizer state.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import soundfile

from tests import strategy_runs

DATA = Path(__file__).resolve().parents[3] / "shared/data/librispeech-mini"
CASES: dict[str, dict[str, Any]] = {"base": {}, "conformer": strategy_runs.CONFORMER}
# a quarter of base's width, half of its depth
WIDTH = {
    "encoder_embed_dim": 96,
    "encoder_ffn_embed_dim": 384,
    "encoder_layers": 6,
    "encoder_attention_heads": 4,
    "final_dim": 32,
    "latent_vars": 40,
    "num_negatives": 50,
    "conv_pos": 32,
    "conv_pos_groups": 8,
    "conv_feature_layers": "[(32,10,5)] + [(32,3,2)]*4 + [(32,2,2)]*2",
}
NEAR, SHARE = 1e-5, 0.55


def write_manifest(folder: Path, data: Path) -> None:
    files = sorted(data.rglob("*.flac"))
    lines = [f"{file.relative_to(data)}\t{soundfile.info(file).frames}" for file in files]
    (folder / "train.tsv").write_text("\n".join([str(data), *lines]) + "\n")


def judge(case: str, reports: list[dict[str, Any]]) -> bool:
    """Print what one case found; returns whether it is as it should be."""
    good = True
    ddp = reports[0]["pytorch_ddp"]
    print(f"{case}: {len(ddp['losses'])} updates, DDP's losses {ddp['losses'][0]:.6f} to {ddp['losses'][-1]:.6f}")
    for backend in strategy_runs.BACKENDS:
        largest = strategy_runs.difference(ddp["losses"], reports[0][backend]["losses"])
        held = [sum(report[backend]["held"][name] for name in ("parameters", "optimizer")) for report in reports]
        whole = sum(ddp["held"][name] for name in ("parameters", "optimizer"))
        share = max(held) / whole
        fits = largest <= NEAR and (backend != "fully_sharded" or share <= SHARE)
        good = good and fits
        print(
            f"  {backend:13}  largest relative difference of losses {largest:.2e}; parameters and optimizer state "
            f"{held} bytes by rank, {share:.4f} of DDP's; {'ok' if fits else 'MISSED'}"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=50, help="updates per strategy")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="models")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with .flac files of speech, 16 kHz")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), arguments.data)
        for case in arguments.cases:
            cfg = strategy_runs.settings(folder, Path(folder) / "run", model={**WIDTH, **CASES[case]})
            good = judge(case, strategy_runs.compare(cfg, arguments.updates, Path(folder) / case)) and good
    print("all strategies train the same" if good else "MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
