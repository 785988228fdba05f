"""Convert models between fairseq, transformers (Hugging Face) and torchaudio, and to ONNX and torch.export."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from fairseq.conversion.convert import TARGETS, WAVEFORM_SECONDS, convert
from fairseq_cli import command


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-convert", description=__doc__)
    parser.add_argument(
        "model",
        help="a checkpoint, a transformers folder, an id of the Hugging Face hub (owner/name), or a folder that "
        "--to torchaudio wrote",
    )
    parser.add_argument(
        "output",
        help="what to write: a file for fairseq, adapter, onnx, onnx-int8 and pt2, else a folder; it must not exist "
        "yet",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        help="hf: a transformers folder; onnx, onnx-int8, sherpa-onnx and pt2 (torch.export): for fine-tuned models "
        "only; adapter: what model.tuning has trained",
    )
    command.add_dictionary(parser)
    command.add_adapter(parser)
    parser.add_argument(
        "--language",
        help="of a transformers folder or checkpoint with several languages (MMS): the one to read; with --to hf: the "
        "name of the adapters to write",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    largest = convert(args.model, args.output, args.to, args.dict, args.language, args.adapter)
    print(
        f"wrote {args.output}; largest difference between the two models' outputs on {WAVEFORM_SECONDS:g} s of audio: "
        f"{largest:.3g}"
    )
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    level = os.environ.get("LOGLEVEL", "INFO").upper()
    logging.basicConfig(format="%(levelname)s | %(message)s", level=level, stream=sys.stderr, force=True)
    args = get_parser().parse_args(argv)
    return command.run(lambda: main(args), "error")


if __name__ == "__main__":
    sys.exit(cli_main())
