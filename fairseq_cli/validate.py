"""Validate a checkpoint on a manifest: `python -m fairseq_cli.validate DATA --path CHECKPOINT`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from fairseq import checkpoint_utils, criterions
from fairseq import device as device_layer
from fairseq.data.audio.quarantine import Quarantine
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.constants import DEVICE_CHOICES
from fairseq.dataclass.utils import merge_with_parent
from fairseq.logging import metrics, progress_bar
from fairseq.training import validation
from fairseq.training.precision import Precision

logger = logging.getLogger("fairseq_cli.validate")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", help="folder of the manifests; default: the one that the checkpoint was trained with")
    parser.add_argument("--path", required=True, help="checkpoint")
    parser.add_argument("--valid-subset", default="valid", help="names of the manifests, separated by commas (default: valid)")
    parser.add_argument("--max-tokens", type=int, help="audio samples a batch; default: the checkpoint's dataset.max_tokens_valid")
    parser.add_argument("--batch-size", type=int, help="utterances a batch; default: the checkpoint's dataset.batch_size_valid")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that load data (default: 1)")
    parser.add_argument("--seed", type=int, help="of crops, masks and negatives; default: the checkpoint's common.seed")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", choices=[str(choice.value) for choice in DEVICE_CHOICES], help="default: a GPU where there is one")
    where.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16 autocast")
    parser.add_argument("--log-format", choices=["json", "none", "simple", "tqdm"], default="simple")
    return parser


def main(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Validate as `args` say; returns the metrics of each subset, rounded as they are printed.

    Raises:
        ValueError: the checkpoint or a manifest cannot be read.
    """
    overrides = {} if args.data is None else {"data": args.data}
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([args.path], arg_overrides=overrides)
    criterion = criterions.build_criterion(cfg.criterion, task)
    common = merge_with_parent(CommonConfig(), {"cpu": args.cpu, "device": args.device, "bf16": args.bf16})
    device = device_layer.select(common)
    model.to(device.torch_device)
    precision = Precision(common, device, updates_per_window=1)
    seed = cfg.common.seed if args.seed is None else args.seed
    results = {}
    for subset in args.valid_subset.split(","):
        task.load_dataset(subset, combine=False)
        batches = task.get_batch_iterator(
            dataset=task.dataset(subset),
            max_tokens=args.max_tokens or cfg.dataset.max_tokens_valid,
            max_sentences=args.batch_size or cfg.dataset.batch_size_valid,
            ignore_invalid_inputs=True,
            required_batch_size_multiple=cfg.dataset.required_batch_size_multiple,
            seed=seed,
            num_workers=args.num_workers,
            shuffle=False,
            start_method=device.loader_start_method(),
        ).next_epoch_itr(shuffle=False)
        progress = progress_bar.progress_bar(batches, log_format=args.log_format, prefix=f"valid on '{subset}' subset")
        with metrics.aggregate(new_root=True) as aggregator:
            quarantine = Quarantine(len(task.dataset(subset)), task.cfg.max_quarantined_share)
            sums = validation.validate(task, model, criterion, progress, device, precision, seed, quarantine)
            task.reduce_metrics([sums], criterion)
        results[subset] = dict(aggregator.get_smoothed_values())
        progress.print(results[subset], tag=subset)
    return results


def cli_main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=os.environ.get("LOGLEVEL", "INFO").upper(),
        stream=sys.stderr,
        force=True,
    )
    try:
        results = main(get_parser().parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
