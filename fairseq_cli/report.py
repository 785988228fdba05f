"""`fairseq-report`: a page about one or more runs: findings, curves, codebook, speed, config; it opens offline.

fairseq-report checkpoints/pretrained -o report.html
fairseq-report checkpoints/first checkpoints/second --serve
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq.checkpoint import atomic
from fairseq.doctor.report.page import run_page
from fairseq.doctor.report.runs import read_runs
from fairseq.doctor.report.server import Watched, make_server
from fairseq.pages import assets
from fairseq.pages.page import Page
from fairseq_cli import command
from fairseq_cli.doctor import config_in

PORT = 8765
MAX_RUNS = 8  # curves have as many colours


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-report", description=command.summary(__doc__))
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's checkpoint.save_dir, or fairseq's log; several are compared",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page to write; an older one is replaced (default: report.html)"
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=PORT,
        metavar="PORT",
        help=f"serve the page on this machine only, and reload it when the run has new records (default: {PORT}; 0: "
        "any free port)",
    )
    parser.add_argument(
        "--ended", action="store_true", help="say that the run has ended: common.report asks for that at its end"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Write or serve the page; returns the exit status.

    Raises:
        ValueError, OSError: wrong arguments, no records, or the page cannot be written.
    """
    if len(args.runs) > MAX_RUNS:
        raise ValueError(f"{len(args.runs)} runs are too many for a page; at most {MAX_RUNS} can be compared.")
    if args.serve is not None and not 0 <= args.serve <= 65535:
        raise ValueError(f"--serve {args.serve} is not a port; it must be from 0 to 65535.")
    assets.check()
    paths = [Path(run) for run in args.runs]
    if args.output or args.serve is None:
        output = args.output or "report.html"
        if os.path.isdir(output):
            raise ValueError(f"-o {output} is a folder; it must be a file.")
        _write(output, _build(paths, args.ended))
        print(f"written: {output}")
    if args.serve is not None:
        _serve(paths, args.serve)
    return 0


def _build(paths: Sequence[Path], ended: bool = False, watched: bool = False) -> Page:
    runs = read_runs(paths, config_in)
    for run in runs:
        run.records.is_over = run.records.is_over or ended
    return run_page(runs, watched)


def _write(path: str, page: Page) -> None:
    content = page.html().encode("utf-8", "backslashreplace")

    def write(disk: atomic.Disk) -> None:
        disk.write(content)

    atomic.write(path, write)


def _serve(paths: Sequence[Path], port: int) -> None:
    watched = Watched(paths, lambda: _build(paths, watched=True))
    try:
        server = make_server(watched, port)
    except OSError as error:
        raise OSError(f"--serve {port}: {error.strerror or error}. Name another port, or 0 for any.") from error
    with server:
        print(f"serving http://localhost:{server.server_address[1]}/ to this machine only; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    return command.run(lambda: main(args), "fairseq-report")


if __name__ == "__main__":
    sys.exit(cli_main())
