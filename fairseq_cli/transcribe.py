"""`fairseq-transcribe`: transcribe audio files to text, JSON, or subtitles.

fairseq-transcribe --path CHECKPOINT talk.flac interview.mp3
fairseq-transcribe --path CHECKPOINT --format srt --output-dir subtitles *.wav
ffmpeg -i URL -f s16le -ac 1 -ar 16000 - | fairseq-transcribe --path CHECKPOINT --stream
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fairseq.inference.formats import FORMATS, write
from fairseq.inference.live import LiveSettings, LiveTranscriber, pcm
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.transcribe import transcribe_one
from fairseq.inference.transcript import Transcript
from fairseq.utils import make_folder
from fairseq_cli import command
from fairseq_cli.decoder_arguments import add_decoder_arguments, check_arguments, decoder_of, join_negative_values

_SUBTITLES = ("srt", "vtt")
_ENDINGS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-transcribe", description=command.summary(__doc__))
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio of any sample rate and number of channels")
    parser.add_argument("--path", required=True, help="fine-tuned checkpoint")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    parser.add_argument("--output-dir", help="folder for a transcript per audio file (default: print)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="transcribe standard input while it arrives: raw 16-bit mono audio at the model's sample rate",
    )
    live = LiveSettings()
    for name, what in (
        ("step", "decoded at once"),
        ("left", "context before it"),
        ("right", "context after it"),
        ("pause", "without a letter, after which a word is complete"),
    ):
        default = getattr(live, name)
        parser.add_argument(
            f"--stream-{name}", type=float, default=default, help=f"seconds, {what} (default: {default:g})"
        )
    add_decoder_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Transcribe; returns the number of files that failed.

    Raises:
        ValueError: the checkpoint, lexicon or language model cannot be read, or two transcripts would have the same
            name.
    """
    check_arguments(args)
    if args.stream:
        transcribe_stream(args, sys.stdin.buffer)
        return 0
    if not args.files:
        raise ValueError("no audio: give at least one FILE, or --stream to transcribe standard input")
    targets = output_paths(args.files, args.output_dir, args.format)
    windows = command.windows_of(args)
    model = SpeechModel.load(args.path, args.device, args.precision, dictionary=args.dict, adapter=args.adapter)
    decoder = decoder_of(args, model)
    failed = 0
    with Progress("transcribing", len(args.files), "files", bar=False) as progress:
        for name, target in zip(args.files, targets, strict=True):
            transcript = transcribe_one(model, name, decoder, windows, progress.tick)
            failed += transcript.error is not None
            report(transcript)
            deliver(transcript, args.format, target, several=len(args.files) > 1)
            progress.advance()
    return failed


def transcribe_stream(args: argparse.Namespace, stream: BinaryIO) -> None:
    """Print the words of a stream as soon as they are complete.

    Raises:
        ValueError: arguments that a stream cannot have, or the checkpoint cannot be read.
    """
    for name in ("files", "lexicon", "lm", "hotwords", "output_dir"):
        if getattr(args, name):
            typed = "a FILE" if name == "files" else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"--stream cannot be used with {typed}: it decodes standard input greedily and prints words"
            )
    if args.format != "text":
        raise ValueError(f"--stream cannot be used with --format {args.format}: it prints words")
    settings = LiveSettings(args.stream_step, args.stream_left, args.stream_right, args.stream_pause)
    model = SpeechModel.load(args.path, args.device, args.precision, dictionary=args.dict, adapter=args.adapter)
    live = LiveTranscriber(model, settings)
    for wave in pcm(stream, max(1, int(settings.step * model.sample_rate))):
        _print_words(live.feed(wave))
    _print_words(live.finish())
    print()


def _print_words(words: Sequence[str]) -> None:
    for word in words:
        print(word, end=" ", flush=True)


def output_paths(files: Sequence[str], folder: str | None, kind: str) -> list[Path | None]:
    """The path of each file's transcript; None: it is printed.

    Raises:
        ValueError: two files with the same name, or subtitles of several files without a folder.
    """
    if folder is None:
        if kind in _SUBTITLES and len(files) > 1:
            raise ValueError(
                f"--format {kind} of {len(files)} files requires --output-dir DIR: subtitles of several recordings "
                "cannot be in one file. --format text and json can print several"
            )
        return [None] * len(files)
    owners: dict[Path, str] = {}
    for name in files:
        path = Path(folder) / (Path(name).stem + _ENDINGS[kind])
        if path in owners:
            raise ValueError(
                f"{owners[path]} and {name} would both be written to {path}: transcribe them in separate commands"
            )
        owners[path] = name
    make_folder(folder, "--output-dir")
    return list(owners)


def report(transcript: Transcript) -> None:
    """Print a transcript's error or note to standard error."""
    if transcript.error is not None:
        print(f"fairseq-transcribe: error: {_with_name(transcript.name, transcript.error)}", file=sys.stderr)
    elif transcript.note is not None:
        print(f"fairseq-transcribe: {transcript.name}: {transcript.note}", file=sys.stderr)


def _with_name(name: str, message: str) -> str:
    return message if message.startswith(name) else f"{name}: {message}"


def deliver(transcript: Transcript, kind: str, target: Path | None, several: bool) -> None:
    """Write a transcript to its file, or print it, after the audio file's name if there are several."""
    if transcript.error is not None and kind != "json":
        return
    text = write(transcript, kind)
    if target is not None:
        target.write_text(text, encoding="utf-8")
    elif kind == "text" and several:
        sys.stdout.write(f"{transcript.name}\t{text}")
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    command.set_up_logging()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are printed as their bytes
    return command.run(lambda: 1 if main(args) else 0, "fairseq-transcribe")


if __name__ == "__main__":
    sys.exit(cli_main())
