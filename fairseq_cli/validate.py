"""Validate a checkpoint on a manifest: `fairseq-validate DATA --path CHECKPOINT`."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, cast

from omegaconf import DictConfig

from fairseq import checkpoint_utils, criterions, utils
from fairseq import device as device_layer
from fairseq.data.audio.quarantine import Quarantine
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.dataclass.configs import CommonConfig, DatasetConfig
from fairseq.dataclass.constants import DEVICE_CHOICES
from fairseq.dataclass.training_configs import split_names
from fairseq.dataclass.utils import merge_with_parent
from fairseq.logging import destinations, metrics
from fairseq.logging.sinks import Console
from fairseq.models import kinds
from fairseq.training import validation
from fairseq.training.precision import Precision

logger = logging.getLogger("fairseq_cli.validate")
PRETRAINING_CRITERION = {"wav2vec2": "wav2vec"}  # for checkpoints without a criterion


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fairseq-validate", description=__doc__)
    parser.add_argument(
        "data", nargs="?", help="folder of the manifests (default: the one that the checkpoint was trained with)"
    )
    parser.add_argument("--path", required=True, help="checkpoint")
    parser.add_argument(
        "--valid-subset", default="valid", help="names of the manifests, separated by commas (default: valid)"
    )
    tokens, sentences = (
        ("--max-tokens", "--max-tokens-valid"),
        ("--batch-size", "--max-sentences", "--batch-size-valid"),
    )
    parser.add_argument(
        *tokens, type=int, help="audio samples in a batch (default: the checkpoint's dataset.max_tokens_valid)"
    )
    parser.add_argument(
        *sentences, type=int, help="utterances in a batch (default: the checkpoint's dataset.batch_size_valid)"
    )
    parser.add_argument("--required-batch-size-multiple", type=int, help="default: the checkpoint's")
    parser.add_argument("--num-workers", type=int, default=1, help="data-loading processes (default: 1)")
    parser.add_argument(
        "--seed", type=int, help="seed of crops, masks and negatives (default: the checkpoint's common.seed)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--device", choices=[str(choice.value) for choice in DEVICE_CHOICES], help="default: a GPU if there is one"
    )
    where.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16 autocast")
    parser.add_argument("--fp16", action="store_true", help="compute in fp16 autocast (bf16 on devices without it)")
    parser.add_argument("--user-dir", help="your own package that registers the classes that the checkpoint needs")
    parser.add_argument(
        "--model-overrides", default="{}", help="a Python dict of settings that differ from the checkpoint's"
    )
    parser.add_argument("--labels", help="extension of the label files (default: the checkpoint's task.labels)")
    parser.add_argument("--task", help="accepted for fairseq's commands; the checkpoint's task is used")
    parser.add_argument("--criterion", choices=sorted(criterions.CRITERION_REGISTRY), help="default: the checkpoint's")
    parser.add_argument(
        "--skip-invalid-size-inputs-valid-test", action="store_true", help="accepted for fairseq's commands; always on"
    )
    parser.add_argument("--log-format", choices=["json", "none", "simple", "tqdm"], default="simple")
    parser.add_argument("--log-interval", type=int, default=100, help="batches between log lines (default: 100)")
    parser.add_argument(
        "--no-progress-bar", action="store_true", help="accepted for fairseq's commands; see --log-format"
    )
    parser.add_argument("--quiet", action="store_true", help="only print the results")
    return parser


def main(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Validate; returns the metrics of each subset, rounded as printed.

    Raises:
        ValueError: an option's value is wrong, or the checkpoint or a manifest cannot be read.
    """
    utils.import_user_module(CommonConfig(user_dir=args.user_dir))
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(args.path, arg_overrides=_overrides(args))
    criterion = criterions.build_criterion(_criterion(cfg, args.criterion), task)
    dataset = merge_with_parent(DatasetConfig(), cfg.get("dataset") or {}, remove_missing=True)
    given = {name: getattr(args, name) for name in ("cpu", "device", "bf16", "fp16", "log_interval")}
    given["log_format"] = "none" if args.quiet else args.log_format
    merged = merge_with_parent(CommonConfig(), given)
    device, common = device_layer.select(merged), cast(CommonConfig, merged)
    model.to(device.torch_device)
    precision = Precision(common, device, updates_per_window=1)
    own_seed = merge_with_parent(CommonConfig(), cfg.get("common") or {}, remove_missing=True).seed
    seed = own_seed if args.seed is None else args.seed
    limits = BatchLimits(
        args.max_tokens or dataset.max_tokens_valid or dataset.max_tokens,
        args.batch_size or dataset.batch_size_valid or dataset.batch_size,
        args.required_batch_size_multiple or dataset.required_batch_size_multiple,
    )
    options = LoaderOptions(
        seed, num_workers=args.num_workers, start_method=device.loader_start_method(), evaluation=True
    )
    console, results = Console(common), {}
    for subset in split_names(args.valid_subset):
        task.load_dataset(subset, combine=False)
        batches = task.batch_iterator(task.dataset(subset), limits, options).next_epoch_itr(shuffle=False)
        quarantine = Quarantine(len(task.dataset(subset)), task.max_quarantined_share)
        with console.following(batches, prefix=f"valid on '{subset}' subset") as progress:
            with metrics.aggregate(new_root=True) as aggregator:
                sums = validation.validate(task, model, criterion, progress, device, precision, seed, quarantine)
                task.reduce_metrics([sums], criterion)
            results[subset] = dict(aggregator.get_smoothed_values())
            console.write(subset, 0, 1, results[subset])
    return results


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Settings by name that override the checkpoint's."""
    try:
        overrides = ast.literal_eval(args.model_overrides)
    except (ValueError, SyntaxError):
        overrides = None
    if not isinstance(overrides, dict):
        raise ValueError(
            f"--model-overrides is {args.model_overrides}: it must be a Python dict like {{'normalize': True}}."
        )
    typed = {"data": args.data, "labels": args.labels}
    return {**overrides, **{name: value for name, value in typed.items() if value is not None}}


def _criterion(cfg: DictConfig, name: str | None) -> Any:
    """The checkpoint's criterion config; else the name of the selected criterion, or of the model's usual one."""
    saved = cfg.get("criterion")
    if saved is not None and name in (None, saved.get("_name")):
        return saved
    kind = cfg.model.get("_name")
    outputs = kinds.outputs(kind)
    return name or (PRETRAINING_CRITERION.get(kind) if outputs is None else outputs.criterion)


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    destinations.send_lines_to(logging.StreamHandler(sys.stderr), level="WARNING" if args.quiet else None)
    try:
        results = main(args)
    except (ValueError, OSError) as error:
        print(f"fairseq-validate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
