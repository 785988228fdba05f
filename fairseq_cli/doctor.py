"""`fairseq-doctor`: what a run's own records say about it: findings with evidence, and what to change.

fairseq-doctor checkpoints
fairseq-doctor train.log other/checkpoints --json findings.json
fairseq-doctor seed1 seed2 seed3 --add-band mine
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from fairseq.checkpoint import io, retention
from fairseq.dataclass.utils import ConfigLike, config_to_container
from fairseq.doctor import bands
from fairseq.doctor import causes as causes  # registers them
from fairseq.doctor.comparing import compare
from fairseq.doctor.reading import read
from fairseq.doctor.records import Records
from fairseq.doctor.terminal import as_json, as_text, comparison_as_text, diagnose
from fairseq.logging.metrics_file import Json
from fairseq_cli import command

WELL, FINDINGS, BAD_INPUT = 0, 1, 2


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairseq-doctor",
        description=command.summary(__doc__),
        epilog="Exit status: 0 nothing is wrong (notes do not count), 1 findings, 2 an input that cannot be read.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="the folder of a run's checkpoints, or a log of fairseq's; several are compared",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON; -: only, to stdout")
    parser.add_argument(
        "--add-band",
        metavar="NAME",
        help="make a band of these runs, at least 3 seeds of one config, in FAIRSEQ_BANDS (default: "
        "~/.config/fairseq/bands)",
    )
    parser.add_argument(
        "--band-source", metavar="TEXT", help="what the band says about where its runs come from (default: their names)"
    )
    return parser


def config_in(folder: Path) -> Mapping[str, Json] | None:
    """The config in a folder's newest checkpoint that can be read; None if there isn't one."""
    pattern = rf"checkpoint.*{retention.ENDINGS}"
    paths = [Path(path) for path in retention.checkpoint_paths(folder, pattern)]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            config = io.peek(path).cfg
        except (OSError, ValueError) as error:
            print(f"fairseq-doctor: {error}", file=sys.stderr)
            continue
        if config is not None:
            return cast("Mapping[str, Json]", config_to_container(cast(ConfigLike, config)))
    return None


def main(args: argparse.Namespace) -> int:
    """Print what was found.

    Raises:
        ValueError: a run cannot be read, or the runs do not make a band.
        OSError: a file cannot be read or written.
    """
    runs: list[tuple[str, Records]] = [(str(path), read(path, config_in)) for path in args.runs]
    if args.add_band:
        return add_band(args.add_band, runs, args.band_source)
    diagnoses = [diagnose(name, records) for name, records in runs]
    comparison = compare(runs) if len(runs) > 1 else None
    if args.json:
        text = json.dumps(as_json(diagnoses, comparison), indent=2, allow_nan=False) + "\n"
        if str(args.json) == "-":
            print(text, end="")
        else:
            args.json.write_text(text, encoding="utf-8")
    if str(args.json) != "-":
        print("\n\n".join(as_text(diagnosis) for diagnosis in diagnoses))
        if comparison is not None:
            print("\n" + comparison_as_text(comparison))
    return WELL if all(diagnosis.is_well for diagnosis in diagnoses) else FINDINGS


def add_band(name: str, runs: Sequence[tuple[str, Records]], source: str | None) -> int:
    """Make a band; one of this name gets the next version."""
    before = [band.version for band in bands.known() if band.name == name]
    source = source or f"runs {', '.join(Path(path).name for path, _ in runs)}"
    band = bands.make(name, runs, source, version=max(before, default=0) + 1)
    path = bands.save(band, bands.own_folder())
    print(
        f"written: {path} (version {band.version}, {band.metric}, updates {band.updates[0]:,} to {band.updates[-1]:,})"
    )
    print(f"limits: {band.statistic}")
    return WELL


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    return command.run(lambda: main(args), "fairseq-doctor", BAD_INPUT)


if __name__ == "__main__":
    sys.exit(cli_main())
