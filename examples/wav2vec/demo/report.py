#!/usr/bin/env python3
"""Report the results of a pre-training run, from the metrics and checkpoint in its save folder.

    python report.py SAVE_DIR [--valid-subset valid]

Exits with 1 if the results are not clearly better than chance.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fairseq.logging.metrics_file import read_rows

MIN_BITS_BELOW_CHANCE = 0.5
MIN_TIMES_CHANCE = 3.0
MIN_SHARE_OF_CODES = 0.1
CHECKPOINTS = ("checkpoint_last.pt", "checkpoint_best.pt")


class Learned(NamedTuple):
    """Results of a run's last validation, and the values at chance."""

    updates: int
    loss_bits: float  # InfoNCE without the extra losses
    chance_bits: float
    accuracy: float
    chance_accuracy: float
    code_perplexity: float
    num_codes: int
    audio_seconds_per_second: float | None  # of training; None if the run logged no interval
    checkpoint: Path

    def shortfalls(self) -> list[str]:
        """Return the criteria that the run does not meet; empty if it meets all."""
        missing = []
        if not self.loss_bits <= self.chance_bits - MIN_BITS_BELOW_CHANCE:
            missing.append(f"the loss is not {MIN_BITS_BELOW_CHANCE} bits below chance")
        if not self.accuracy >= MIN_TIMES_CHANCE * self.chance_accuracy:
            missing.append(f"the accuracy is not {MIN_TIMES_CHANCE:g} times chance")
        if not self.code_perplexity > MIN_SHARE_OF_CODES * self.num_codes:
            missing.append(
                f"the code perplexity is not above a {1 / MIN_SHARE_OF_CODES:.0f}th of the codes: the codebook has "
                "collapsed"
            )
        return missing


def find_checkpoint(save_dir: Path) -> Path:
    for name in CHECKPOINTS:
        if (save_dir / name).is_file():
            return save_dir / name
    raise ValueError(
        f"{save_dir} has no checkpoint: looked for {' and '.join(CHECKPOINTS)}. Check whether training "
        "ended with an error"
    )


def read_run(save_dir: Path, valid_subset: str) -> Learned:
    """Read a run's last validation and the median speed of its log intervals.

    Raises:
        ValueError: the folder has no checkpoint, no metrics, or no validation of this subset.
    """
    checkpoint = find_checkpoint(save_dir)
    metrics_file = save_dir / "metrics.jsonl"
    if not metrics_file.is_file():
        raise ValueError(f"{save_dir} has no metrics.jsonl")
    rows = read_rows(metrics_file)
    validations = [row for row in rows if row["split"] == valid_subset]
    if not validations:
        raise ValueError(f'{metrics_file} has no validation of the subset "{valid_subset}"')
    last = validations[-1]
    model: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)["cfg"]["model"]
    candidates = 1 + model["num_negatives"] + model["cross_sample_negatives"] + model["codebook_negatives"]
    speeds = sorted(
        float(row["audio_s_per_s"]) for row in rows if row["split"] == "train_inner" and "audio_s_per_s" in row
    )
    return Learned(
        updates=last["num_updates"],
        loss_bits=float(last["loss_0"]),
        chance_bits=math.log2(candidates),
        accuracy=float(last["accuracy"]),
        chance_accuracy=1 / candidates,
        code_perplexity=float(last["code_perplexity"]),
        num_codes=model["latent_groups"] * model["latent_vars"],
        audio_seconds_per_second=speeds[len(speeds) // 2] if speeds else None,
        checkpoint=checkpoint,
    )


def describe(learned: Learned) -> str:
    """Return the report: a table and its interpretation."""
    candidates = round(2**learned.chance_bits)
    gain = learned.chance_bits - learned.loss_bits
    times = learned.accuracy / learned.chance_accuracy
    speed = learned.audio_seconds_per_second
    against_loss = (
        f"chance {learned.chance_bits:.3f} = log2({candidates}); {abs(gain):.3f} bits "
        f"{'better' if gain >= 0 else 'worse'}"
    )
    against_accuracy = f"chance {100 * learned.chance_accuracy:.2f} %; {times:.1f} times chance"
    lines = [
        f"Results after {learned.updates} updates (validation, on recordings not used for training)",
        f"  loss (InfoNCE)    {learned.loss_bits:8.3f} bits    {against_loss}",
        f"  accuracy          {100 * learned.accuracy:8.2f} %       {against_accuracy}",
        f"  code perplexity   {learned.code_perplexity:8.1f}         of {learned.num_codes} codes",
        "  training speed    " + (f"{speed:8.1f} seconds of audio per second" if speed is not None else "not logged"),
        f"  checkpoint        {learned.checkpoint}",
        "",
    ]
    missing = learned.shortfalls()
    if missing:
        lines += [
            f"The results are NOT clearly better than chance: {'; '.join(missing)}.",
            "If the loss stays near chance for long, see docs/stuck-at-6.658.md; more audio or more updates can also "
            "help.",
        ]
    else:
        lines += [
            f"For a masked part of a recording, the model picks the right one of {candidates} sounds of the recording "
            f"{times:.1f} times as",
            "often as chance. It learned this, and the codes for the sounds, from audio alone.",
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("save_dir", type=Path, help="the run's checkpoint.save_dir")
    parser.add_argument("--valid-subset", default="valid", help="name of the validation subset (default: valid)")
    args = parser.parse_args()
    try:
        learned = read_run(args.save_dir, args.valid_subset)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(describe(learned))
    return 1 if learned.shortfalls() else 0


if __name__ == "__main__":
    sys.exit(main())
