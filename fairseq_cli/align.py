"""`fairseq-align`: times of words and letters of a known text, by CTC forced alignment.

    fairseq-align --path CHECKPOINT talk.flac talk.txt
    fairseq-align --path CHECKPOINT --format textgrid --output-dir grids DATA/train.tsv
    fairseq-align --path CHECKPOINT --star --cut segments recordings/train.tsv recordings/train.wrd

AUDIO is a recording of any length, or a manifest (.tsv) whose lines have a line of TEXT each.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fairseq.alignment.spelling import MISSING, STAR, Spelling
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.data.audio.audio_utils import audio_format
from fairseq.data.audio.manifest import Manifest
from fairseq.inference.alignment import Alignment
from fairseq.inference.alignment_batch import SpellingSettings, Utterance, align_all, recording, utterances
from fairseq.inference.alignment_cuts import Kept, SegmentWriter, segments_of
from fairseq.inference.alignment_formats import ENDINGS, FORMATS, JOINABLE, write
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.utils import make_folder
from fairseq_cli import command

logger = logging.getLogger(__name__)

_LENGTHS = {
    "--min": ("shortest", "shortest segment in seconds"),
    "--max": ("longest", "longest segment in seconds"),
    "--pad": ("pad", "seconds kept before and after the words of a segment"),
    "--join": ("join", "longest pause within a segment in seconds"),
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-align", description=command.summary(__doc__))
    parser.add_argument("audio", metavar="AUDIO", help="a recording, or a manifest (.tsv)")
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help=f"text file with words, or with units if its name ends in .ltr; {STAR} stands for speech that it lacks "
        "(default for a manifest: the .wrd or .ltr beside it)",
    )
    parser.add_argument("--path", required=True, help="fine-tuned checkpoint")
    parser.add_argument("--format", choices=FORMATS, default="ctm", help="default: ctm")
    parser.add_argument("--output-dir", help="folder for a file per recording (default: print)")
    parser.add_argument(
        "--star", action="store_true", help="allow speech that the text lacks, around and between words"
    )
    parser.add_argument(
        "--missing",
        choices=MISSING,
        default="error",
        help="what becomes of letters and digits that the dictionary does not have: an error (default), other speech, "
        "or nothing",
    )
    cuts = CutSettings()
    parser.add_argument("--cut", metavar="DIR", help="cut into training segments: a manifest and labels in this folder")
    for option, (field, text) in _LENGTHS.items():
        default = getattr(cuts, field)
        parser.add_argument(
            option, dest=field, type=float, default=default, metavar="X", help=f"{text} (default: {default:g})"
        )
    parser.add_argument(
        "--target", type=float, metavar="X", help="best length of a segment in seconds (default: 0.6 of --max)"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out segments with a word whose agreement is lower, from 0 to 1 (default: 0)",
    )
    command.add_dictionary(parser)
    command.add_adapter(parser)
    command.add_device_and_precision(parser, "auto", "auto (default): bf16 if it is faster")
    command.add_windows(parser)
    return parser


class _Output:
    """Prints the alignments, or writes each to a file."""

    def __init__(self, args: argparse.Namespace, items: Sequence[Utterance]) -> None:
        self._kind, self._folder = args.format, args.output_dir
        self._paths: dict[str, str] = {}
        if self._folder is not None:
            make_folder(self._folder, "--output-dir")
            for item in items:
                path = self._path(item.name)
                other = self._paths.setdefault(str(path), item.name)
                if other != item.name:
                    raise ValueError(
                        f"{other} and {item.name} would both be written to {path}: align them in separate commands"
                    )
        elif args.format not in JOINABLE and len(items) > 1 and args.cut is None:
            raise ValueError(
                f"--format {args.format} of {len(items)} recordings requires --output-dir DIR. --format "
                f"{' and '.join(JOINABLE)} can print several"
            )
        self._silent = self._folder is None and args.cut is not None

    def _path(self, name: str) -> Path:
        place = Path(name)
        inside = place if not place.is_absolute() and ".." not in place.parts else Path(place.name)
        # the end of a segment's name, :START-END, belongs to the name
        stem = inside.name.replace(":", "_") if ":" in inside.name else inside.stem
        return Path(self._folder) / inside.parent / (stem + ENDINGS[self._kind])

    def deliver(self, alignment: Alignment) -> None:
        if alignment.error is not None:
            print(f"fairseq-align: error: {_with_name(alignment.name, alignment.error)}", file=sys.stderr)
        text = write(alignment, self._kind)
        if self._silent or not text:
            return
        if self._folder is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        path = self._path(alignment.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _with_name(name: str, message: str) -> str:
    return message if message.startswith(name) else f"{name}: {message}"


def main(args: argparse.Namespace) -> int:
    """Align; returns the number of recordings that failed.

    Raises:
        ValueError: checkpoint, manifest or text cannot be read, the text has characters that the dictionary does not
            have, or the options contradict each other.
    """
    settings = CutSettings(args.shortest, args.longest, args.target, args.pad, args.join)
    if not 0 <= args.min_agreement <= 1:
        raise ValueError(f"--min-agreement is {args.min_agreement:g}. It must be from 0 to 1.")
    windows = command.windows_of(args)
    manifest = Manifest(args.audio) if args.audio.removesuffix(".gz").endswith(".tsv") else None
    if manifest is None and args.text is None:
        raise ValueError(f"there is no text for {args.audio}. Give a text file as the second argument.")
    if manifest is not None:
        manifest.check_root()
    model = SpeechModel.load(args.path, args.device, args.precision, dictionary=args.dict, adapter=args.adapter)
    spelling = SpellingSettings(args.missing, args.star)
    if manifest is not None:
        items = utterances(manifest, args.text, model.dictionary(), spelling)
    else:
        items = recording(args.audio, args.text, model.dictionary(), spelling)
    _log_characters(items)
    output, cuts = _Output(args, items), None if args.cut is None else _Cuts(args, settings, manifest, model)
    failed = 0
    with Progress("aligning", len(items), bar=False) as progress:
        for number, alignment in enumerate(align_all(model, items, windows, progress)):
            failed += alignment.error is not None
            output.deliver(alignment)
            if cuts is not None and alignment.error is None:
                cuts.add(number, alignment)
            progress.advance()
    if cuts is not None:
        print(cuts.finish())
    return failed


def _log_characters(items: Sequence[Utterance]) -> None:
    """Log once what was left out of the texts."""
    total = Spelling()
    for item in items:
        if isinstance(item.spelling, Spelling):
            total.removed += Counter(item.spelling.removed)
            total.missing += Counter(item.spelling.missing)
    for note in total.notes():
        logger.warning("%s", note)


class _Cuts:
    """The segments of a run of the command."""

    def __init__(
        self, args: argparse.Namespace, settings: CutSettings, manifest: Manifest | None, model: SpeechModel
    ) -> None:
        self._settings, self._min_agreement, self._manifest = settings, args.min_agreement, manifest
        self._kept, self._audio = Kept(), Path(args.audio)
        name = self._audio.name.removesuffix(".gz").removesuffix(".tsv") if manifest is not None else self._audio.stem
        root = manifest.root if manifest is not None else str(self._audio.absolute().parent)
        folder = Path(args.cut)
        if manifest is not None and folder.absolute() == self._audio.absolute().parent:
            raise ValueError(
                f"--cut {folder} is the folder of {args.audio}, which would be replaced. Choose another one."
            )
        make_folder(folder, "--cut")
        self._writer = SegmentWriter(folder, name, root, model.dictionary())

    def add(self, number: int, alignment: Alignment) -> None:
        segments = segments_of(alignment, self._settings, self._min_agreement, self._kept)
        if self._manifest is None:
            self._writer.add(self._audio.name, 0, audio_format(str(self._audio)).sample_rate, segments)
            return
        rate = audio_format(self._manifest.file(number)).sample_rate
        self._writer.add(self._manifest.name(number), self._manifest.start(number), rate, segments)

    def finish(self) -> str:
        """Write the segments; returns a summary."""
        path, kept = self._writer.write(), self._kept
        pauses = max(0.0, kept.total - kept.kept - sum(kept.left_out.values()))
        lines = [
            f"in: {kept.total / 3600:.3f} hours",
            f"kept: {kept.kept / 3600:.3f} hours, segments: {kept.segments}",
            *(f"left out, {reason}: {seconds / 3600:.3f} hours" for reason, seconds in sorted(kept.left_out.items())),
            f"left out, pauses and other speech: {pauses / 3600:.3f} hours",
            f"manifest: {path}",
        ]
        return "\n".join(lines)


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are printed as their bytes
    return command.run(lambda: 1 if main(args) else 0, "fairseq-align")


if __name__ == "__main__":
    sys.exit(cli_main())
