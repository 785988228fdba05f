#!/usr/bin/env python3
"""`fairseq-average-checkpoints` under fairseq's path."""

import sys

from fairseq_cli.average_checkpoints import cli_main

if __name__ == "__main__":
    sys.exit(cli_main())
