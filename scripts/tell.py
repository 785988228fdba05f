#!/usr/bin/env python3
"""Run a command that prints nothing for a while: print TEXT first, then the elapsed time every 8 seconds.

    tell.py TEXT COMMAND [ARGUMENT ...]

The exit status is the command's.
"""

import subprocess
import sys
import time

EVERY = 8.0  # seconds


def main(text: str, command: list[str]) -> int:
    print(text, flush=True)
    start = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait(EVERY)
        except subprocess.TimeoutExpired:
            print(f"  ... {time.monotonic() - start:.0f} s", flush=True)
        except KeyboardInterrupt:  # the command received it too
            process.wait()
            return 130


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
