#!/usr/bin/env python3
"""Make labels and dictionaries for manifests of any corpus and language.

Writes NAME.ltr and NAME.wrd for each manifest, and dict.ltr.txt and dict.wrd.txt.

Layouts of transcripts:
  librispeech   SPEAKER-CHAPTER.trans.txt next to the audio; no --transcripts
  commonvoice   a .tsv with a header that has the columns path and sentence
  tsv           path<TAB>transcript on each line; the first line can be a header with the column names;
                of a segment (third column of a manifest) the path is PATH:START-END, in samples
  text          one transcript per line, in the manifest's order; --transcripts is the file, or a folder with NAME.txt

Every line of a manifest needs a transcript; lines without one are listed. Texts are reduced to words of letters and
digits of any script.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from fairseq.data.audio.manifest import Manifest
from fairseq.data.dictionary import Dictionary
from fairseq.data.transcript_notes import notes
from fairseq.data.transcripts import (
    CASES,
    LAYOUTS,
    LibriSpeech,
    Lines,
    Table,
    TranscriptSource,
    case_warning,
    check_units,
    clean,
    dictionary_of,
    letters,
    write_lines,
)
from fairseq.utils import make_folder


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "manifests", nargs="+", metavar="TSV", help="manifests; the dictionaries are made from the first one"
    )
    parser.add_argument("--layout", required=True, choices=LAYOUTS, help="layout of the transcripts, see above")
    parser.add_argument("--transcripts", metavar="PATH", help="file with the transcripts (layout text: file or folder)")
    parser.add_argument("--dest", metavar="DIR", help="folder for the labels (default: that of each manifest)")
    parser.add_argument(
        "--case",
        default="upper",
        choices=CASES,
        help="case of the labels; -tr: for Turkish and Azerbaijani (default: upper, as in fairseq)",
    )
    parser.add_argument(
        "--keep",
        default="'",
        metavar="CHARS",
        help="characters to keep in words in addition to letters and digits (default: ')",
    )
    parser.add_argument(
        "--path-column", default="path", metavar="NAME", help="name of the column of paths (default: path)"
    )
    parser.add_argument(
        "--text-column",
        default="sentence",
        metavar="NAME",
        help="name of the column of transcripts (default: sentence)",
    )
    parser.add_argument(
        "--dict",
        metavar="FILE",
        help="check the labels against this dictionary of letters instead of making a new one",
    )
    parser.add_argument(
        "--drop",
        action="store_true",
        help="drop utterances without a transcript, and write manifests without them to --dest",
    )
    return parser


def stem_of(manifest: Manifest) -> str:
    """Return the name of a manifest without .tsv or .tsv.gz."""
    return Path(manifest.path.removesuffix(".gz")).stem


def source_of(args: argparse.Namespace, manifest: Manifest) -> TranscriptSource:
    """Return the source of a manifest's transcripts."""
    if args.layout == "librispeech":
        return LibriSpeech()
    if args.transcripts is None:
        raise ValueError(f"--layout {args.layout} needs --transcripts")
    path = Path(args.transcripts)
    if args.layout == "text":
        return Lines(path / f"{stem_of(manifest)}.txt" if path.is_dir() else path, manifest)
    return Table(path, args.path_column, args.text_column)


def texts_of(args: argparse.Namespace, manifest: Manifest, removed: Counter[str]) -> tuple[list[str], list[int]]:
    """Return (cleaned transcript of each utterance, indices of utterances without one)."""
    source = source_of(args, manifest)
    originals = [source.text(manifest, number) or "" for number in range(len(manifest))]
    for number, text in enumerate(originals):
        warning = case_warning(text, manifest.places([number]), args.case)
        if warning is not None:
            print(f"warning: {warning}", file=sys.stderr)
            break
    texts = [clean(text, args.case, args.keep, removed) for text in originals]
    return texts, [number for number, text in enumerate(texts) if not text]


def write_manifest(path: Path, manifest: Manifest, left_out: set[int]) -> None:
    kept = [number for number in range(len(manifest)) if number not in left_out]
    write_lines(path, [manifest.root, *map(manifest.row, kept)])
    if manifest.starts is not None:
        print(f"{path} has segments (a third column), which fairseq itself does not open")


def main(args: argparse.Namespace) -> int:
    removed: Counter[str] = Counter()
    dictionary: Dictionary | None = Dictionary.load(args.dict) if args.dict else None
    what = args.dict or f"the dictionary of {args.manifests[0]}"
    if args.drop and args.dest is None:
        raise ValueError("--drop writes new manifests, so it needs --dest")
    if args.dest is not None:
        make_folder(args.dest, "--dest")
    for place, path in enumerate(map(Path, args.manifests)):
        manifest = Manifest(path)
        stem = stem_of(manifest)
        texts, without = texts_of(args, manifest, removed)
        if without and not args.drop:
            raise ValueError(
                f"{len(without)} of {len(manifest)} utterances of {path} have no transcript: "
                f"{manifest.places(without)}. Use --drop to drop these utterances"
            )
        dest = path.parent if args.dest is None else Path(args.dest)
        if args.drop:
            if dest.resolve() == path.parent.resolve():
                raise ValueError(f"--drop would overwrite {path}: choose another --dest")
            write_manifest(dest / f"{stem}.tsv", manifest, set(without))
        texts = [text for text in texts if text]
        lines = [letters(text) for text in texts]
        dictionary = dictionary_of(lines) if dictionary is None else dictionary
        check_units(f"{stem}.ltr", lines, dictionary, what)
        if place == 0:
            dictionary.save(dest / "dict.ltr.txt")
            dictionary_of(texts).save(dest / "dict.wrd.txt")
            for note in notes(texts):
                print(f"note: {note}")
        write_lines(dest / f"{stem}.ltr", lines)
        write_lines(dest / f"{stem}.wrd", texts)
        print(f"{stem}: {len(texts)} utterances, {len(without)} dropped, {sum(map(len, texts))} characters")
    assert dictionary is not None
    print(
        f"dictionary: {len(dictionary) - dictionary.nspecial} letters: "
        f"{' '.join(dictionary.symbols[dictionary.nspecial :])}"
    )
    if removed:
        print(
            "removed from the texts: "
            + ", ".join(f"{character!r} {count}x" for character, count in removed.most_common(20))
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(get_parser().parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
