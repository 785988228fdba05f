"""`fairseq-pack`: a corpus of any form as tar shards, with manifest, labels and checksums.

    fairseq-pack /corpus/audio --dest shards --name train --workers 8
    fairseq-pack valid.tsv --dest shards --name valid

SOURCE is a folder of audio, a manifest, a Hugging Face data set (saved to disk, or parquet files), Lhotse's cuts, a
NeMo manifest or a Kaldi data folder. After an interruption, rerun the command and it continues. Exit status: 0 if
everything was packed, 3 if utterances that cannot be read were left out, 1 after an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq.corpora.pack import run, sources
from fairseq.corpora.pack.encode import BITS, CODECS, Settings
from fairseq.corpora.pack.run import Job
from fairseq.corpora.pack.source import Json, Options
from fairseq.corpora.pack.survey import LabelRules
from fairseq.data.transcripts import CASES
from fairseq.device.base import available_cores
from fairseq_cli import command

SOME_LEFT_OUT = 3  # exit status
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SMALLEST = 10**5  # bytes of a shard


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-pack", description=command.summary(__doc__))
    parser.add_argument("source", metavar="SOURCE", help="a file, a folder, or a pattern of parquet files; see --from")
    parser.add_argument("--dest", required=True, metavar="DIR", help="folder for the shards: empty, or of this command")
    parser.add_argument("--name", default="train", help="name of the manifest and of the shards (default: train)")
    parser.add_argument(
        "--from",
        dest="kind",
        choices=sources.kinds(),
        help="what SOURCE is (default: recognise it)",
    )
    parser.add_argument("--shard-size", default="1GB", metavar="SIZE", help="of a shard, at most (default: 1GB)")
    parser.add_argument(
        "--codec",
        choices=CODECS,
        default="flac",
        help="of the audio in the shards; copy: WAV, FLAC and Ogg files stay as they are (default: flac)",
    )
    parser.add_argument("--resample", type=int, metavar="HZ", help="sample rate (default: that of each file)")
    parser.add_argument(
        "--bits",
        type=int,
        choices=BITS,
        help="bits of a sample (default: 16, or 24 where the source has more than 16)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--max-left-out",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="it is an error if a larger share cannot be read (default: 0.01)",
    )
    parser.add_argument("--restart", action="store_true", help="remove what this name has in DIR, and pack it again")
    _add_labels(parser)
    _add_source_options(parser)
    return parser


def _add_labels(parser: argparse.ArgumentParser) -> None:
    labels = parser.add_argument_group("labels, by the rules of fairseq-prepare-labels; a manifest's are not changed")
    labels.add_argument("--no-labels", action="store_true", help="do not write .ltr and .wrd")
    labels.add_argument("--case", default="upper", choices=CASES, help="case of the labels (default: upper)")
    labels.add_argument("--keep", default="'", metavar="CHARS", help="characters to keep in words (default: ')")
    labels.add_argument("--drop", action="store_true", help="leave out utterances without a transcript")
    labels.add_argument(
        "--dict",
        metavar="FILE",
        help="dictionary of letters to check labels against (default: that in DIR; the first pack makes it)",
    )


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("what SOURCE has")
    options.add_argument("--ext", metavar="EXT", help="extensions of audio files in a folder: flac,wav")
    for name in ("audio", "text", "speaker", "key"):
        options.add_argument(f"--{name}-column", metavar="NAME", help=f"column of a table with the {name}")


def bytes_of(text: str, option: str) -> int:
    """Return the number of bytes in a text such as 500MB, 1GB or 2GiB.

    Raises:
        ValueError: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{option} is {text!r}; it must be a size such as 500MB, 1GB or 2GiB.")
    unit = match[2].upper()
    factor = 1 << (10 * "KMGT".index(unit) + 10) if match[3] else _UNITS[unit]
    return int(float(match[1]) * factor)


def job_of(args: argparse.Namespace) -> Job:
    """Return the job that the arguments describe.

    Raises:
        ValueError: an argument is wrong.
    """
    shard_size = bytes_of(args.shard_size, "--shard-size")
    workers = available_cores() if args.workers is None else args.workers
    problems = (
        (shard_size < _SMALLEST, f"--shard-size is {args.shard_size}; it must be at least {_SMALLEST // 1000}KB."),
        (workers < 1, f"--workers is {workers}; it must be at least 1."),
        (not 0 <= args.max_left_out <= 1, f"--max-left-out is {args.max_left_out}; it must be from 0 to 1."),
        (
            args.resample is not None and not 1000 <= args.resample <= 192000,
            f"--resample is {args.resample}; it must be from 1000 to 192000 Hz.",
        ),
        (
            args.codec == "copy" and args.resample is not None,
            "--codec copy keeps files as they are, so it cannot be combined with --resample. Use --codec flac.",
        ),
    )
    for is_wrong, problem in problems:
        if is_wrong:
            raise ValueError(problem)
    extensions = tuple(part.strip().lstrip(".") for part in (args.ext or "").split(",") if part.strip())
    return Job(
        source=args.source,
        dest=Path(args.dest),
        name=args.name,
        kind=args.kind,
        options=Options(extensions, args.audio_column, args.text_column, args.speaker_column, args.key_column),
        settings=Settings(args.codec, args.resample, args.bits),
        shard_size=shard_size,
        labels=None if args.no_labels else LabelRules(args.case, args.keep, args.drop),
        dictionary=None if args.dict is None else Path(args.dict),
        max_left_out=args.max_left_out,
        workers=workers,
        restart=args.restart,
    )


def main(args: argparse.Namespace) -> int:
    result = run.pack(job_of(args))
    for line in report(result, Path(args.dest), args.name):
        print(line)
    return SOME_LEFT_OUT if result["left_out"] else 0


def report(result: dict[str, Json], dest: Path, name: str) -> list[str]:
    """Return the lines that say what was packed; the last one says what was left out."""
    rates, removed = result["rates"], result["removed"]
    assert isinstance(rates, dict) and isinstance(removed, dict)
    lines = [
        f"{name}: utterances: {result['utterances']:,}, hours: {result['hours']:,.2f}, shards: {result['shards']:,}, "
        f"size: {_size(result['bytes'])}, folder: {dest}"
    ]
    if len(rates) > 1:
        lines.append("sample rates: " + ", ".join(f"{rate} Hz: {count:,}" for rate, count in rates.items()))
        lines.append("a run on them needs task.resample=true; fairseq-pack --resample converts them once")
    if removed:
        lines.append("removed from the texts: " + ", ".join(f"{what!r} {count}x" for what, count in removed.items()))
    if result["clipped"]:
        lines.append(f"louder than full scale, and clipped: {result['clipped']:,} utterances")
    if result["dropped"]:
        lines.append(f"without a transcript, and dropped: {result['dropped']:,} utterances")
    left_out = f"left out: {result['left_out']:,} utterances"
    if result["left_out"]:
        left_out += f", see {dest / (name + '.left_out.tsv')}; the first: {result['first_left_out']}"
    return [*lines, left_out]


def _size(count: Json) -> str:
    assert isinstance(count, int)
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    try:
        return command.run(lambda: main(args), "fairseq-pack")
    except KeyboardInterrupt:
        print("fairseq-pack: interrupted. Rerun the command and it continues.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(cli_main())
