"""Commands.

Importing torch must not load device plug-ins: the device layer loads the one that the config selects.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

# every command's modules import this package before they import torch
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


def _leave(number: int, frame: Any) -> None:
    """Exit on Ctrl-C while a training command still imports and prepares: there is nothing to save yet."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"\nstopped by SIGINT before the first update: nothing to save.\n")
    os._exit(128 + number)


def _starts_training() -> bool:
    """Whether this process is the command fairseq-hydra-train, however it was started."""
    return (
        Path(sys.argv[0]).name in ("fairseq-hydra-train", "hydra_train.py")
        or "fairseq_cli.hydra_train" in sys.orig_argv
    )


# KeyboardInterrupt would print a long traceback through torch, or be swallowed by a callback; the run installs its own
# handlers later
if _starts_training() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
