#!/usr/bin/env python3
"""Make labels for a LibriSpeech manifest from the transcripts next to the audio: NAME.ltr and NAME.wrd.

NAME.ltr has letters, NAME.wrd words. If the output folder has no dict.ltr.txt, it is made from these letters, so start
with the training split. `prepare_labels.py` does all splits at once, for any corpus and language.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fairseq.data.audio.manifest import Manifest
from fairseq.data.transcripts import LibriSpeech, dictionary_of, letters, write_lines
from fairseq.utils import make_folder


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tsv", help="manifest from wav2vec_manifest.py")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder for the labels")
    parser.add_argument(
        "--output-name",
        required=True,
        metavar="NAME",
        help="name of the label files without extension, the same as the manifest's",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    make_folder(args.output_dir, "--output-dir")
    manifest, source = Manifest(args.tsv), LibriSpeech()
    texts = [source.text(manifest, number) for number in range(len(manifest))]
    missing = [number for number, text in enumerate(texts) if not text]
    if missing:
        raise ValueError(
            f"{len(missing)} utterances of {args.tsv} have no transcript next to the audio: {manifest.places(missing)}"
        )
    lines = [letters(text) for text in texts]
    write_lines(Path(args.output_dir) / f"{args.output_name}.ltr", lines)
    write_lines(Path(args.output_dir) / f"{args.output_name}.wrd", texts)
    dictionary = Path(args.output_dir) / "dict.ltr.txt"
    if not dictionary.exists():
        dictionary_of(lines).save(dictionary)
        print(f"wrote {dictionary}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(get_parser().parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
