"""Shared by the commands: logging, reporting a user's mistake, and common arguments."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from fairseq.inference.model import PRECISIONS
from fairseq.inference.windows import WindowSettings
from fairseq.logging import destinations


def set_up_logging() -> None:
    """Log to standard error, at the level in LOGLEVEL."""
    destinations.send_lines_to(logging.StreamHandler(sys.stderr))


NOBODY_READS = 128 + 13  # a shell's status for a process that SIGPIPE ended


def run(main: Callable[[], int], prefix: str, mistake: int = 1) -> int:
    """Run `main` and return its exit status; `mistake` is that of a user's, printed as `prefix: message`.

    Where nobody reads the output any more, such as after `| head`, the command ends without a message.
    """
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its exit
        return NOBODY_READS
    except (ValueError, OSError) as error:
        print(f"{prefix}: {error}", file=sys.stderr)
        return mistake


def summary(docstring: str | None) -> str:
    """The text after the command's name in the first line of a module's docstring; "" if Python dropped it."""
    return (docstring or "").split("\n")[0].partition(": ")[2]


def add_dictionary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dict", help="dictionary for a fine-tuned checkpoint that does not contain one, such as dict.ltr.txt"
    )


def add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        metavar="LANG_OR_FILE",
        help="use the adapter and output layer of a language that is in the checkpoint (MMS) or in a file "
        "adapter.LANG.safetensors beside it, or of any such file of fairseq-convert --to adapter or transformers",
    )


def add_device_and_precision(parser: argparse.ArgumentParser, precision: str, precision_help: str) -> None:
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda ...")
    parser.add_argument("--precision", choices=PRECISIONS, default=precision, help=precision_help)


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Arguments of the windows that long audio is cut into; `windows_of` reads them."""
    windows = WindowSettings()
    parser.add_argument(
        "--window",
        type=float,
        default=windows.seconds,
        help=f"length of a window in seconds (default: {windows.seconds:g})",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=windows.overlap,
        help=f"overlap of windows in seconds (default: {windows.overlap:g})",
    )


def windows_of(args: argparse.Namespace) -> WindowSettings:
    return WindowSettings(args.window, args.overlap)
