"""`fairseq-train`: print the fairseq-hydra-train command for an old fairseq-train command; it does not train."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fairseq_cli import old_arguments

_HELP = """usage: fairseq-train DATA --task audio_pretraining --arch wav2vec2 ...

Prints the equivalent fairseq-hydra-train command. Nothing is run.
See fairseq-hydra-train --help."""


def cli_main(argv: Sequence[str] | None = None) -> int:
    """Print the new command to standard error; status 2, since nothing was trained."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, file=sys.stderr)
        return 2
    print(f"fairseq-train: {old_arguments.explain(words)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(cli_main())
