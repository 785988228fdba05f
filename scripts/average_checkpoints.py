#!/usr/bin/env python3
"""fairseq's place of `fairseq-average-checkpoints`."""

import sys

from fairseq_cli.average_checkpoints import cli_main

if __name__ == "__main__":
    sys.exit(cli_main())
